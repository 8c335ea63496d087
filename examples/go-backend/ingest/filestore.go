package ingest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cognicore/pb"
)

const (
	draftPrefix = ".incoming-"
	longestName = 200 // bytes; file systems allow 255, with the extension
)

// FileStore keeps each document in a file of its own: JSON Lines, a chunk a line.
// A draft is a hidden file in the same directory, renamed when it is whole. The
// directory belongs to one FileStore at a time.
type FileStore struct {
	directory string
}

// NewFileStore creates the directory where it is missing, and removes the drafts that
// a killed process left in it.
func NewFileStore(directory string) (*FileStore, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("create the directory for documents: %w", err)
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, fmt.Errorf("look for abandoned drafts: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), draftPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(directory, entry.Name())); err != nil {
			return nil, fmt.Errorf("remove an abandoned draft: %w", err)
		}
	}
	return &FileStore{directory: directory}, nil
}

// Path tells where the document is kept.
func (s *FileStore) Path(docID string) string {
	return filepath.Join(s.directory, fileName(docID)+".jsonl")
}

// Begin implements Store.
func (s *FileStore) Begin(_ context.Context, document *pb.DocumentMetadata) (Draft, error) {
	file, err := os.CreateTemp(s.directory, draftPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("open a draft: %w", err)
	}
	buffer := bufio.NewWriter(file)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	return &fileDraft{
		docID: document.GetDocId(), path: s.Path(document.GetDocId()),
		file: file, buffer: buffer, encoder: encoder,
	}, nil
}

type fileDraft struct {
	docID     string
	path      string
	file      *os.File
	buffer    *bufio.Writer
	encoder   *json.Encoder
	committed bool
}

func (d *fileDraft) Add(_ context.Context, chunk *pb.DocumentChunk) error {
	return d.encoder.Encode(newRecord(d.docID, chunk))
}

func (d *fileDraft) Commit(context.Context) error {
	if err := d.buffer.Flush(); err != nil {
		return err
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	if err := d.file.Close(); err != nil {
		return err
	}
	if err := os.Rename(d.file.Name(), d.path); err != nil {
		return err
	}
	d.committed = true
	return nil
}

func (d *fileDraft) Discard() {
	if d.committed {
		return
	}
	_ = d.file.Close()
	_ = os.Remove(d.file.Name())
}

// fileName makes any document id a file name: letters, digits, "-", "_" and inner dots
// stand for themselves, every other byte for its percent code, so that two ids never
// share a name. What is too long ends in its hash, behind "%%", which no code begins.
func fileName(docID string) string {
	var name strings.Builder
	for i := range len(docID) {
		if c := docID[i]; isPlain(c) || c == '.' && i > 0 {
			name.WriteByte(c)
		} else {
			fmt.Fprintf(&name, "%%%02X", c)
		}
	}
	if name.Len() <= longestName {
		return name.String()
	}
	hash := sha256.Sum256([]byte(docID))
	suffix := "%%" + hex.EncodeToString(hash[:])
	return name.String()[:longestName-len(suffix)] + suffix
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '_'
}
