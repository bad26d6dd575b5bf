#include "images/pull/layer_flights.h"

#include "absl/time/clock.h"

namespace davit::images {

bool LayerFlights::Flight::WaitUntilLanded(const CancelToken& cancel) {
  sys::MutexLock lock(&mutex_);
  while (!has_landed_) {
    if (cancel.cancelled()) return false;
    landed_.WaitWithDeadline(&mutex_, absl::Now() + absl::Milliseconds(200));
  }
  return true;
}

LayerFlights::Joined LayerFlights::Join(const std::string& chain_id) {
  Joined joined;
  sys::MutexLock lock(&mutex_);
  std::shared_ptr<Flight>& flight = flights_[chain_id];
  if (flight != nullptr) {
    joined.flight = flight;
    return joined;
  }
  flight = std::make_shared<Flight>();
  joined.lead = std::make_unique<Lead>(this, chain_id, flight);
  return joined;
}

void LayerFlights::Land(const std::string& chain_id, Flight& flight) {
  {
    sys::MutexLock lock(&mutex_);
    flights_.erase(chain_id);
  }
  sys::MutexLock lock(&flight.mutex_);
  flight.has_landed_ = true;
  flight.landed_.SignalAll();
}

}  // namespace davit::images
