#ifndef DAVIT_IMAGES_PULL_LAYER_FLIGHTS_H_
#define DAVIT_IMAGES_PULL_LAYER_FLIGHTS_H_

#include <map>
#include <memory>
#include <string>

#include "images/cancel.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

// Which layers are being made right now, by chain ID, so that two pulls which need the same layer
// make it once. Whoever joins first leads: it makes the layer and lets the flight land, whatever
// comes of it; the others wait and look in the store then. Thread-safe.
//
// No two pulls can wait for each other: a leader waits only for layers below its own.
class LayerFlights {
 public:
  class Flight {
   public:
    // True when the flight has landed, false when `cancel` said so first.
    bool WaitUntilLanded(const CancelToken& cancel);

   private:
    friend class LayerFlights;
    sys::Mutex mutex_;
    sys::CondVar landed_;
    bool has_landed_ ABSL_GUARDED_BY(mutex_) = false;
  };

  // The leader's end of a flight; its destruction lets the flight land.
  class Lead {
   public:
    Lead(LayerFlights* flights, std::string chain_id, std::shared_ptr<Flight> flight)
        : flights_(flights), chain_id_(std::move(chain_id)), flight_(std::move(flight)) {}
    ~Lead() { flights_->Land(chain_id_, *flight_); }
    Lead(const Lead&) = delete;
    Lead& operator=(const Lead&) = delete;

   private:
    LayerFlights* const flights_;
    const std::string chain_id_;
    const std::shared_ptr<Flight> flight_;
  };

  struct Joined {
    std::unique_ptr<Lead> lead;      // set for the leader
    std::shared_ptr<Flight> flight;  // set for the others
  };
  Joined Join(const std::string& chain_id);

 private:
  void Land(const std::string& chain_id, Flight& flight);

  sys::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Flight>> flights_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_LAYER_FLIGHTS_H_
