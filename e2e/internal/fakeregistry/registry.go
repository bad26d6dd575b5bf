// Package fakeregistry is a registry in the test's own process that serves documents from memory and
// misbehaves on request (distribution-spec, "Pull"; the token flow of Docker's registry).
package fakeregistry

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"davit.dev/e2e/internal/ociimage"
)

// Auth is how a registry asks who is there.
type Auth int

const (
	Anonymous  Auth = iota
	Basic           // WWW-Authenticate: Basic, on every request
	Bearer          // a token from /token, which wants Basic credentials
	BearerOpen      // a token from /token for anybody
)

// Credentials that Basic and Bearer accept.
const (
	User     = "aladdin"
	Password = "open:sesame"
)

// A Registry on a loopback port. Safe for use by several goroutines.
type Registry struct {
	Auth Auth
	// Intercept sees every request first; true means that it has answered.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	server *httptest.Server
	mu     sync.Mutex
	docs   map[string]*ociimage.Document // "repository@digest" and "repository:tag"
	blobs  map[string][]byte             // "repository@digest"
	counts map[string]int                // "manifests", "blobs <digest>", "token"
	tokens map[string]bool
}

// Start serves HTTP until the test ends.
func Start(t testing.TB) *Registry {
	r := New(false)
	t.Cleanup(r.Close)
	return r
}

// StartTLS serves HTTPS until the test ends; CertificatePEM is what a client must trust.
func StartTLS(t testing.TB) *Registry {
	r := New(true)
	t.Cleanup(r.Close)
	return r
}

// New serves until Close.
func New(tls bool) *Registry {
	r := &Registry{docs: map[string]*ociimage.Document{}, blobs: map[string][]byte{},
		counts: map[string]int{}, tokens: map[string]bool{}}
	if tls {
		r.server = httptest.NewTLSServer(r)
	} else {
		r.server = httptest.NewServer(r)
	}
	return r
}

// Host is the registry as references name it: 127.0.0.1:port.
func (r *Registry) Host() string { return strings.SplitN(r.server.URL, "//", 2)[1] }

// URL is its base URL, as a mirror is configured.
func (r *Registry) URL() string { return r.server.URL }

// CertificatePEM of a registry that serves HTTPS.
func (r *Registry) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
}

// Close ends it, before the test ends if the test is about a registry that is down. May be repeated.
func (r *Registry) Close() {
	r.server.CloseClientConnections()
	r.server.Close()
}

// Add serves a document under a tag and its digest, and returns the full reference by tag.
func (r *Registry) Add(repository, tag string, d *ociimage.Document) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(repository, d)
	r.docs[repository+":"+tag] = d
	return r.Host() + "/" + repository + ":" + tag
}

func (r *Registry) add(repository string, d *ociimage.Document) {
	r.docs[repository+"@"+d.Digest()] = d
	for digest, blob := range d.Blobs {
		r.blobs[repository+"@"+digest] = blob
	}
	for _, child := range d.Children {
		r.add(repository, child)
	}
}

// Alias serves a document under a digest that is not its own.
func (r *Registry) Alias(repository, digest string, d *ociimage.Document) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.docs[repository+"@"+digest] = d
}

// Count is how many requests of a kind were answered: "manifests", "blobs", "blobs <digest>", "token",
// "denied".
func (r *Registry) Count(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[kind]
}

func (r *Registry) count(kinds ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range kinds {
		r.counts[kind]++
	}
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if r.Intercept != nil && r.Intercept(w, request) {
		return
	}
	if request.URL.Path == "/token" {
		r.serveToken(w, request)
		return
	}
	if !r.authorised(request) {
		r.count("denied")
		r.challenge(w, request)
		return
	}
	if request.URL.Path == "/v2/" || request.URL.Path == "/v2" {
		w.WriteHeader(http.StatusOK)
		return
	}
	path := strings.TrimPrefix(request.URL.Path, "/v2/")
	if repository, reference, ok := cut(path, "/manifests/"); ok {
		r.serveManifest(w, request, repository, reference)
	} else if repository, digest, ok := cut(path, "/blobs/"); ok {
		r.serveBlob(w, request, repository, digest)
	} else {
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func cut(path, at string) (string, string, bool) {
	if i := strings.LastIndex(path, at); i > 0 {
		return path[:i], path[i+len(at):], true
	}
	return "", "", false
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": code}}})
}

func (r *Registry) serveManifest(w http.ResponseWriter, request *http.Request, repository, reference string) {
	separator := ":"
	if strings.HasPrefix(reference, "sha256:") {
		separator = "@"
	}
	r.mu.Lock()
	d := r.docs[repository+separator+reference]
	r.mu.Unlock()
	if d == nil {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	r.count("manifests")
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Docker-Content-Digest", d.Digest())
	w.Header().Set("Content-Length", fmt.Sprint(len(d.Body)))
	if request.Method != http.MethodHead {
		w.Write(d.Body)
	}
}

func (r *Registry) serveBlob(w http.ResponseWriter, request *http.Request, repository, digest string) {
	r.mu.Lock()
	blob, ok := r.blobs[repository+"@"+digest]
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	if request.Method != http.MethodHead {
		r.count("blobs", "blobs "+digest)
	}
	from := 0
	if _, err := fmt.Sscanf(request.Header.Get("Range"), "bytes=%d-", &from); err == nil && from < len(blob) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)-from))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		from = 0
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
	}
	if request.Method != http.MethodHead {
		w.Write(blob[from:])
	}
}

// Blob is what would be served at a path, if that is a blob's.
func (r *Registry) Blob(path string) ([]byte, bool) {
	repository, digest, ok := cut(strings.TrimPrefix(path, "/v2/"), "/blobs/")
	if !ok {
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	blob, ok := r.blobs[repository+"@"+digest]
	return blob, ok
}

func (r *Registry) authorised(request *http.Request) bool {
	header := request.Header.Get("Authorization")
	switch r.Auth {
	case Basic:
		return header == basic()
	case Bearer, BearerOpen:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.tokens[strings.TrimPrefix(header, "Bearer ")]
	}
	return true
}

func basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(User+":"+Password))
}

func (r *Registry) challenge(w http.ResponseWriter, request *http.Request) {
	if r.Auth == Basic {
		w.Header().Set("WWW-Authenticate", `Basic realm="fake"`)
	} else {
		repository, _, _ := cut(strings.TrimPrefix(request.URL.Path, "/v2/"), "/manifests/")
		if repository == "" {
			repository, _, _ = cut(strings.TrimPrefix(request.URL.Path, "/v2/"), "/blobs/")
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(
			`Bearer realm="%s/token",service="fake",scope="repository:%s:pull"`, r.URL(), repository))
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
}

func (r *Registry) serveToken(w http.ResponseWriter, request *http.Request) {
	if r.Auth == Bearer && request.Header.Get("Authorization") != basic() {
		r.count("denied")
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	r.count("token")
	r.mu.Lock()
	token := fmt.Sprintf("token-%d", len(r.tokens)+1)
	r.tokens[token] = true
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

// ForgetTokens makes every token that was given out expire.
func (r *Registry) ForgetTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = map[string]bool{}
}
