package ociimage

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Push uploads a document with all it refers to (distribution-spec, "Push"). `base` is the registry's
// URL, for example http://127.0.0.1:5000.
func Push(base, repository, tag string, d *Document) error {
	client := &http.Client{Timeout: time.Minute}
	for _, child := range d.Children {
		if err := Push(base, repository, child.Digest(), child); err != nil {
			return err
		}
	}
	for digest, blob := range d.Blobs {
		if err := pushBlob(client, base, repository, digest, blob); err != nil {
			return fmt.Errorf("push blob %s to %s/%s: %w", digest, base, repository, err)
		}
	}
	target := fmt.Sprintf("%s/v2/%s/manifests/%s", base, repository, tag)
	if err := send(client, http.MethodPut, target, d.MediaType, d.Body, http.StatusCreated, nil); err != nil {
		return fmt.Errorf("push manifest %s/%s:%s: %w", base, repository, tag, err)
	}
	return nil
}

func pushBlob(client *http.Client, base, repository, digest string, blob []byte) error {
	head, err := client.Head(fmt.Sprintf("%s/v2/%s/blobs/%s", base, repository, digest))
	if err != nil {
		return err
	}
	head.Body.Close()
	if head.StatusCode == http.StatusOK {
		return nil
	}
	var location string
	start := fmt.Sprintf("%s/v2/%s/blobs/uploads/", base, repository)
	if err := send(client, http.MethodPost, start, "", nil, http.StatusAccepted, &location); err != nil {
		return err
	}
	if strings.HasPrefix(location, "/") {
		location = base + location
	}
	target, err := url.Parse(location)
	if err != nil {
		return err
	}
	query := target.Query()
	query.Set("digest", digest)
	target.RawQuery = query.Encode()
	return send(client, http.MethodPut, target.String(), "application/octet-stream", blob, http.StatusCreated, nil)
}

func send(client *http.Client, method, target, mediaType string, body []byte, want int, location *string) error {
	request, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if mediaType != "" {
		request.Header.Set("Content-Type", mediaType)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 512))
		return fmt.Errorf("%s %s: %s: %s", method, target, response.Status, text)
	}
	if location != nil {
		*location = response.Header.Get("Location")
	}
	return nil
}
