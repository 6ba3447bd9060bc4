// Command inference answers HTTP like a model server would: GET /healthz, and POST /v1/embed, which maps a text to a
// vector by a small deterministic model, so that a client can check that the answer is right.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// dimensions is the length of an embedding.
const dimensions = 8

// maxText is the longest text that is accepted, in bytes.
const maxText = 64 << 10

type answer struct {
	Allocation string    `json:"allocation"`
	Country    string    `json:"country"`
	GPU        string    `json:"gpu"`
	Embedding  []float64 `json:"embedding"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	port := os.Getenv("NOMAD_PORT_http")
	if port == "" {
		port = "8080"
	}
	server := &http.Server{Addr: ":" + port, Handler: routes(), ReadHeaderTimeout: 5 * time.Second}
	go beat(ctx)
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	fmt.Printf("serving on port %s with GPU %s\n", port, os.Getenv("NVIDIA_VISIBLE_DEVICES"))
	err := server.ListenAndServe()
	if !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("stopped")
}

// beat prints a line each second with the time since boot, so that a test can tell from the logs alone whether two
// copies of the service ran at the same moment.
func beat(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			fmt.Printf("alive %d\n", now.UnixMilli())
		}
	}
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /v1/embed", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxText))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{
			Allocation: os.Getenv("NOMAD_ALLOC_ID"),
			Country:    os.Getenv("POOL_COUNTRY"),
			GPU:        os.Getenv("NVIDIA_VISIBLE_DEVICES"),
			Embedding:  embed(string(text)),
		})
	})
	return mux
}

// embed hashes each word into a bucket: a bag-of-words vector.
func embed(text string) []float64 {
	vector := make([]float64, dimensions)
	for _, word := range strings.Fields(text) {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(strings.ToLower(word)))
		vector[hash.Sum32()%dimensions]++
	}
	return vector
}
