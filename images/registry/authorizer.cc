#include "images/registry/authorizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "images/document/json.h"
#include "images/registry/redirect.h"
#include "images/registry/registry_error.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

constexpr size_t kMaxTokenAnswer = 1024 * 1024;
constexpr size_t kMaxToken = 64 * 1024;  // real ones have a few kilobytes
constexpr size_t kMaxTokens = 1024;      // kept at one time
constexpr absl::Duration kDefaultLifetime = absl::Seconds(60);
constexpr char kClientId[] = "davit";

absl::StatusOr<std::string> TokenFrom(const nlohmann::json& answer) {
  DAVIT_ASSIGN_OR_RETURN(std::string token, StringMember(answer, "token"));
  if (token.empty()) {
    DAVIT_ASSIGN_OR_RETURN(token, StringMember(answer, "access_token"));
  }
  if (token.empty()) return absl::FailedPreconditionError("the answer holds no token");
  if (token.size() > kMaxToken) return absl::FailedPreconditionError("the token is too long");
  return token;
}

absl::Duration LifetimeFrom(const nlohmann::json& answer) {
  const auto it = answer.find("expires_in");
  if (it == answer.end() || !it->is_number()) return kDefaultLifetime;
  // Counted from now and not from the server's issued_at: its clock may differ.
  return std::clamp(absl::Seconds(it->get<double>()), kDefaultLifetime, absl::Hours(24));
}

}  // namespace

std::optional<std::string> TokenCache::Get(const std::string& key) {
  sys::MutexLock lock(&mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.expiry <= absl::Now()) return std::nullopt;
  return it->second.token;
}

void TokenCache::Put(const std::string& key, std::string token, absl::Duration lifetime) {
  sys::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  std::erase_if(entries_, [now](const auto& entry) { return entry.second.expiry <= now; });
  if (entries_.size() >= kMaxTokens) entries_.clear();  // each can be had again
  // A tenth less: the token must still be good when the request arrives.
  entries_[key] = {std::move(token), now + lifetime * 0.9};
}

void TokenCache::Drop(const std::string& key, const std::string& token) {
  sys::MutexLock lock(&mutex_);
  const auto it = entries_.find(key);
  if (it != entries_.end() && it->second.token == token) entries_.erase(it);
}

Authorizer::Authorizer(HttpClient* http, TokenCache* tokens, const HostSettings* settings,
                       RetryPolicy retry, Secret secret, Url endpoint, std::string scope)
    : http_(http),
      tokens_(tokens),
      settings_(settings),
      retry_(retry),
      secret_(std::move(secret)),
      endpoint_(std::move(endpoint)),
      scope_(std::move(scope)) {}

std::string Authorizer::CacheKey() const {
  return absl::StrCat(realm_.ToString(), "\n", service_, "\n", scope_, "\n", secret_.Fingerprint());
}

absl::StatusOr<std::string> Authorizer::Header(const CancelToken& cancel) {
  Scheme scheme;
  {
    sys::MutexLock lock(&mutex_);
    scheme = scheme_;
  }
  switch (scheme) {
    case Scheme::kUnknown:
      return secret_.registry_token.empty() ? std::string()
                                            : absl::StrCat("Bearer ", secret_.registry_token);
    case Scheme::kAnonymous:
      return std::string();
    case Scheme::kBasic:
      return secret_.BasicHeader();
    case Scheme::kBearer:
      break;
  }
  DAVIT_ASSIGN_OR_RETURN(const std::string token, BearerToken(cancel));
  return absl::StrCat("Bearer ", token);
}

absl::Status Authorizer::OnUnauthorized(const HttpResponse& response, const std::string& used,
                                        int attempt, const CancelToken& cancel) {
  absl::Status refused = absl::UnauthenticatedError(absl::StrCat(
      endpoint_.Origin(), " answered 401 Unauthorized", RegistryErrorText(response.error_body)));
  if (attempt >= 2) return refused;
  const Challenge* bearer = nullptr;
  const Challenge* basic = nullptr;
  std::vector<Challenge> challenges;
  for (const std::string& header : response.AllHeaders("www-authenticate")) {
    for (Challenge& challenge : ParseChallenges(header)) challenges.push_back(std::move(challenge));
  }
  for (const Challenge& challenge : challenges) {
    if (challenge.scheme == "bearer" && bearer == nullptr) bearer = &challenge;
    if (challenge.scheme == "basic" && basic == nullptr) basic = &challenge;
  }
  if (bearer != nullptr && secret_.registry_token.empty()) {
    return UseBearer(*bearer, used, cancel);
  }
  sys::MutexLock lock(&mutex_);
  if (basic != nullptr && !secret_.BasicHeader().empty() && used != secret_.BasicHeader()) {
    scheme_ = Scheme::kBasic;
    return absl::OkStatus();
  }
  // Some registries answer so to credentials on what anybody may read.
  if (challenges.empty() && !used.empty() && secret_.registry_token.empty()) {
    scheme_ = Scheme::kAnonymous;
    return absl::OkStatus();
  }
  return refused;
}

absl::Status Authorizer::UseBearer(const Challenge& challenge, const std::string& used,
                                   const CancelToken& cancel) {
  const auto param = [&](const char* name) {
    const auto it = challenge.params.find(name);
    return it == challenge.params.end() ? std::string() : it->second;
  };
  auto realm = ParseUrl(param("realm"));
  if (!realm.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(endpoint_.Origin(), ": its token service: ", realm.status().message()));
  }
  // A token service on plain HTTP would hear the password in the clear (CVE-2019-10214).
  if (realm->scheme == "http" && !settings_->HttpAllowed(*realm)) {
    return absl::FailedPreconditionError(absl::StrCat(endpoint_.Origin(), ": its token service ",
                                                      realm->Origin(), " does not use https"));
  }
  {
    sys::MutexLock lock(&mutex_);
    scheme_ = Scheme::kBearer;
    realm_ = *std::move(realm);
    service_ = param("service");
    if (!param("scope").empty()) scope_ = param("scope");
    if (used.rfind("Bearer ", 0) == 0) tokens_->Drop(CacheKey(), used.substr(7));
  }
  DAVIT_ASSIGN_OR_RETURN(const std::string token, BearerToken(cancel));
  if (absl::StrCat("Bearer ", token) == used) {
    return absl::UnauthenticatedError(
        absl::StrCat(endpoint_.Origin(), " refuses the token that its own service issues"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Authorizer::BearerToken(const CancelToken& cancel) {
  std::string key, service, scope;
  Url realm;
  {
    sys::MutexLock lock(&mutex_);
    key = CacheKey();
    realm = realm_;
    service = service_;
    scope = scope_;
  }
  if (auto token = tokens_->Get(key); token.has_value()) return *std::move(token);
  auto token = RequestToken(realm, service, scope, cancel);
  if (!token.ok()) {
    return sys::Annotate(token.status(), absl::StrCat("get a token from ", realm.Origin()));
  }
  tokens_->Put(key, token->value, token->lifetime);
  return std::move(token->value);
}

absl::StatusOr<Authorizer::Token> Authorizer::RequestToken(const Url& realm,
                                                           const std::string& service,
                                                           const std::string& scope,
                                                           const CancelToken& cancel) {
  HttpRequest get;
  get.url = realm;
  if (!service.empty()) {
    absl::StrAppend(&get.url.query, get.url.query.empty() ? "" : "&",
                    "service=", QueryEscape(service));
  }
  // Several scopes come separated by spaces and go as a parameter each.
  for (const absl::string_view one : absl::StrSplit(scope, ' ', absl::SkipEmpty())) {
    absl::StrAppend(&get.url.query, get.url.query.empty() ? "" : "&", "scope=", QueryEscape(one));
  }
  HttpRequest post;
  post.url = realm;
  post.form = absl::StrCat("client_id=", kClientId, "&service=", QueryEscape(service),
                           "&scope=", QueryEscape(scope), "&access_type=offline");

  std::string body;
  HttpResponse response;
  if (!secret_.identity_token.empty()) {
    absl::StrAppend(&*post.form, "&grant_type=refresh_token&refresh_token=",
                    QueryEscape(secret_.identity_token));
    DAVIT_ASSIGN_OR_RETURN(response, Send(post, "", &body, cancel));
  } else {
    DAVIT_ASSIGN_OR_RETURN(response, Send(get, secret_.BasicHeader(), &body, cancel));
    // A pure OAuth2 service knows POST only.
    if (!secret_.username.empty() && (response.status == 404 || response.status == 405)) {
      absl::StrAppend(&*post.form, "&grant_type=password&username=", QueryEscape(secret_.username),
                      "&password=", QueryEscape(secret_.password));
      DAVIT_ASSIGN_OR_RETURN(response, Send(post, "", &body, cancel));
    }
  }
  if (response.status < 200 || response.status >= 300) {
    // 400 is what OAuth2 answers to a bad grant (RFC 6749, 5.2).
    if (response.status == 400 && !secret_.empty()) response.status = 401;
    return StatusFromResponse(response, "the token service");
  }
  DAVIT_ASSIGN_OR_RETURN(const nlohmann::json answer,
                         ParseStrictJson(body, kMaxTokenAnswer, "the token service's answer"));
  Token token;
  DAVIT_ASSIGN_OR_RETURN(token.value, TokenFrom(answer));
  token.lifetime = LifetimeFrom(answer);
  return token;
}

absl::StatusOr<HttpResponse> Authorizer::Send(HttpRequest request, const std::string& authorization,
                                              std::string* body, const CancelToken& cancel) {
  for (int attempt = 1;; ++attempt) {
    StringSink sink(kMaxTokenAnswer);
    absl::StatusOr<HttpResponse> response;
    if (request.form.has_value()) {
      request.tls = settings_->TlsFor(request.url, endpoint_);
      response = http_->Perform(request, &sink, cancel);
    } else {
      auto followed =
          PerformFollowingRedirects(*http_, *settings_, request, authorization, &sink, cancel);
      if (followed.ok()) {
        response = std::move(followed->response);
      } else {
        response = followed.status();
      }
    }
    const bool again =
        response.ok() ? IsRetryableStatus(response->status)
                      : absl::IsUnavailable(response.status()) && !IsPermanent(response.status());
    if (!again || attempt >= retry_.request_attempts) {
      *body = std::move(sink.body());
      return response;
    }
    std::optional<absl::Duration> wait;
    if (response.ok()) wait = ParseRetryAfter(response->Header("retry-after"), absl::Now());
    DAVIT_RETURN_IF_ERROR(SleepFor(BackoffDelay(retry_, attempt, wait), cancel));
  }
}

}  // namespace davit::images
