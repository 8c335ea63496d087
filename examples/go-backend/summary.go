package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// summary is what a document's file tells at a glance.
type summary struct {
	chunks    int
	lastPage  int
	dimension int
	chapters  []string
}

type keptChunk struct {
	Chapter    string    `json:"chapter"`
	PageEnd    int       `json:"page_end"`
	Embeddings []float32 `json:"embeddings"`
}

func summarize(path string) (summary, error) {
	var s summary
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, errors.New("the task succeeded and no document arrived here: it was done " +
			"before, or the processor's GO_GRPC_INGEST_ADDR is the address of another backend")
	}
	if err != nil {
		return s, err
	}
	defer file.Close()
	lines := json.NewDecoder(bufio.NewReader(file))
	for {
		var chunk keptChunk
		if err := lines.Decode(&chunk); errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return s, fmt.Errorf("read %s: %w", path, err)
		}
		s.add(chunk)
	}
}

func (s *summary) add(chunk keptChunk) {
	s.chunks++
	s.lastPage = max(s.lastPage, chunk.PageEnd)
	s.dimension = len(chunk.Embeddings)
	if n := len(s.chapters); n == 0 || s.chapters[n-1] != chunk.Chapter {
		s.chapters = append(s.chapters, chunk.Chapter)
	}
}
