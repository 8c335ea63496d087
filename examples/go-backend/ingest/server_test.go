package ingest_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"cognicore/ingest"
	"cognicore/pb"
)

func TestWholeDocumentIsKeptWithAllItsFields(t *testing.T) {
	b := newBackend(t, "")
	sent := chunk(0)
	sent.Kind = pb.DocumentChunk_TABLE
	sent.SectionPath = []string{"Part", "Über <uns>"}
	sent.Boxes = []*pb.BoundingBox{{Page: 3, X0: 1, Y0: 2, X1: 3.5, Y1: 4}}
	sent.Embeddings = []float32{0.1, -2}

	receipt := b.send(t, document("doc"), sent, chunk(1))

	if !receipt.GetSuccess() || receipt.GetChunksReceived() != 2 {
		t.Errorf("receipt: %v", receipt)
	}
	lines := b.kept(t, "doc")
	expected := `{"doc_id":"doc","id":"id-0","index":0,"chapter":"Chapter",` +
		`"section_path":["Part","Über <uns>"],"page":3,"page_end":4,"kind":"TABLE",` +
		`"token_count":7,"content":"text 0","boxes":[{"page":3,"x0":1,"y0":2,"x1":3.5,"y1":4}],` +
		`"embeddings":[0.1,-2]}`
	if len(lines) != 2 || lines[0] != expected {
		t.Errorf("got %s\nwant %s", lines, expected)
	}
	if !strings.Contains(lines[1], `"section_path":[]`) || strings.Contains(lines[1], "embeddings") {
		t.Errorf("empty fields: %s", lines[1])
	}
}

func TestCancelledStreamLeavesNothing(t *testing.T) {
	b := newBackend(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	b.open(t, ctx, document("doc"), chunk(0))
	b.log.await(t, "chunk")
	cancel()
	event := b.log.await(t, "stream_cancelled")
	if event["doc_id"] != "doc" || event["chunks"] != 1.0 {
		t.Errorf("event: %v", event)
	}
	b.expectFiles(t)
}

func TestBrokenConnectionLeavesNothing(t *testing.T) {
	b := newBackend(t, "")
	b.open(t, t.Context(), document("doc"), chunk(0))
	b.log.await(t, "chunk")
	_ = b.connection.Close()
	b.log.await(t, "stream_cancelled")
	b.expectFiles(t)
}

func TestNothingShowsBeforeTheStreamEnds(t *testing.T) {
	b := newBackend(t, "")
	b.send(t, document("doc"), chunk(0))
	b.log.await(t, "document")
	stream := b.open(t, t.Context(), document("doc"), chunk(0), chunk(1))
	b.log.await(t, "chunk")
	b.log.await(t, "chunk")
	if lines := b.kept(t, "doc"); len(lines) != 1 {
		t.Errorf("%d chunks show", len(lines))
	}
	receive(t, stream)
	if lines := b.kept(t, "doc"); len(lines) != 2 {
		t.Errorf("%d chunks were kept", len(lines))
	}
}

func TestLaterAttemptReplacesTheDocument(t *testing.T) {
	b := newBackend(t, "")
	b.send(t, document("doc"), chunk(0), chunk(1))
	b.send(t, document("doc"), chunk(0))
	if lines := b.kept(t, "doc"); len(lines) != 1 {
		t.Errorf("%d chunks were kept", len(lines))
	}
	b.expectFiles(t, "doc.jsonl")
}

func TestCancelledAttemptLeavesTheEarlierVersion(t *testing.T) {
	b := newBackend(t, "")
	b.send(t, document("doc"), chunk(0), chunk(1))
	b.log.await(t, "document")
	ctx, cancel := context.WithCancel(t.Context())
	b.open(t, ctx, document("doc"), chunk(0))
	b.log.await(t, "chunk")
	cancel()
	b.log.await(t, "stream_cancelled")
	if lines := b.kept(t, "doc"); len(lines) != 2 {
		t.Errorf("%d chunks are left", len(lines))
	}
}

func TestWrongStreamsAreRejected(t *testing.T) {
	cases := map[string]struct {
		requests []*pb.IngestRequest
		code     codes.Code
	}{
		"nothing":         {nil, codes.InvalidArgument},
		"chunk first":     {requests(chunk(0)), codes.InvalidArgument},
		"no doc_id":       {requests(document("")), codes.InvalidArgument},
		"no chunks":       {requests(document("doc")), codes.InvalidArgument},
		"metadata twice":  {requests(document("doc"), document("doc")), codes.InvalidArgument},
		"empty message":   {append(requests(document("doc")), &pb.IngestRequest{}), codes.InvalidArgument},
		"gap":             {requests(document("doc"), chunk(0), chunk(2)), codes.FailedPrecondition},
		"repetition":      {requests(document("doc"), chunk(0), chunk(0)), codes.FailedPrecondition},
		"does not open 0": {requests(document("doc"), chunk(1)), codes.FailedPrecondition},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "")
			stream := b.openRaw(t, t.Context(), c.requests)
			if _, err := stream.CloseAndRecv(); status.Code(err) != c.code {
				t.Errorf("got %v, want %v", err, c.code)
			}
			b.log.await(t, "stream_rejected")
			b.expectFiles(t)
		})
	}
}

func TestSenderOfOnlyTheDescribedFieldsIsWelcome(t *testing.T) {
	b := newBackend(t, "")
	plain := &pb.DocumentChunk{Chapter: "Chapter", Page: 1, Content: "text"}
	receipt := b.send(t, &pb.DocumentMetadata{DocId: "doc"}, plain, plain)
	if receipt.GetChunksReceived() != 2 || len(b.kept(t, "doc")) != 2 {
		t.Errorf("receipt: %v", receipt)
	}
}

func TestDocIDIsNeverAPath(t *testing.T) {
	ids := []string{
		"../../escaped", "/etc/passwd", "..", ".", ".hidden", "a/b", "a%2Fb", "a\x00b", `..\c`,
		"ä", strings.Repeat("x", 300), strings.Repeat("x", 301), strings.Repeat("/", 100),
	}
	b := newBackend(t, "")
	for _, id := range ids {
		b.send(t, document(id), chunk(0))
		var line struct {
			DocID string `json:"doc_id"`
		}
		if err := json.Unmarshal([]byte(b.kept(t, id)[0]), &line); err != nil || line.DocID != id {
			t.Errorf("%q holds %q (%v)", id, line.DocID, err)
		}
	}
	if entries := b.files(t); len(entries) != len(ids) {
		t.Errorf("%d documents stand in %d files: %q", len(ids), len(entries), entries)
	}
	if outside, _ := os.ReadDir(filepath.Dir(b.directory)); len(outside) != 1 {
		t.Errorf("something was written outside: %v", outside)
	}
}

func TestDraftsOfAKilledProcessAreRemoved(t *testing.T) {
	directory := t.TempDir()
	store, err := ingest.NewFileStore(directory)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Begin(t.Context(), document("doc")); err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.NewFileStore(directory); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(directory); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestStoreThatFailsMakesTheProcessorTryAgain(t *testing.T) {
	rejection := status.Error(codes.PermissionDenied, "not yours")
	for expected, failure := range map[codes.Code]error{
		codes.Unavailable:      errors.New("disk full"),
		codes.PermissionDenied: rejection,
	} {
		connection := connect(t, failingStore{failure}, "", newEventLog())
		b := &backend{connection: connection}
		_, err := b.open(t, t.Context(), document("doc")).CloseAndRecv()
		if status.Code(err) != expected {
			t.Errorf("got %v, want %v", err, expected)
		}
	}
}

func TestTokenIsRequired(t *testing.T) {
	b := newBackend(t, "secret")
	for header, expected := range map[string]codes.Code{
		"Bearer secret": codes.OK,
		"Bearer wrong":  codes.Unauthenticated,
		"secret":        codes.Unauthenticated,
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", header)
		_, err := b.open(t, ctx, document("doc"), chunk(0)).CloseAndRecv()
		if status.Code(err) != expected {
			t.Errorf("%s: got %v, want %v", header, err, expected)
		}
	}
	_, err := b.open(t, t.Context(), document("doc"), chunk(0)).CloseAndRecv()
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: got %v", err)
	}
}

func TestLargeMessagesFit(t *testing.T) {
	b := newBackend(t, "")
	large := chunk(0)
	large.Content = strings.Repeat("x", 20<<20)
	b.send(t, document("doc"), large)
}

// ------------------------------------------------------------------- fixtures

type failingStore struct{ err error }

func (f failingStore) Begin(context.Context, *pb.DocumentMetadata) (ingest.Draft, error) {
	return nil, f.err
}

// backend is an ingest server over a FileStore, and a client of it.
type backend struct {
	directory  string
	store      *ingest.FileStore
	log        *eventLog
	connection *grpc.ClientConn
}

func newBackend(t *testing.T, token string) *backend {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "documents")
	store, err := ingest.NewFileStore(directory)
	if err != nil {
		t.Fatal(err)
	}
	log := newEventLog()
	return &backend{directory, store, log, connect(t, store, token, log)}
}

func connect(t *testing.T, store ingest.Store, token string, log *eventLog) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(ingest.ServerOptions(token)...)
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	pb.RegisterIngestServiceServer(server, ingest.NewServer(store, logger))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

type sending = grpc.ClientStreamingClient[pb.IngestRequest, pb.IngestResponse]

func (b *backend) open(t *testing.T, ctx context.Context, payloads ...any) sending {
	t.Helper()
	return b.openRaw(t, ctx, requests(payloads...))
}

// openRaw ignores that a send fails: the server has answered then, which the test reads.
func (b *backend) openRaw(t *testing.T, ctx context.Context, all []*pb.IngestRequest) sending {
	t.Helper()
	stream, err := pb.NewIngestServiceClient(b.connection).IngestDocument(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range all {
		_ = stream.Send(request)
	}
	return stream
}

func (b *backend) send(t *testing.T, payloads ...any) *pb.IngestResponse {
	t.Helper()
	return receive(t, b.open(t, t.Context(), payloads...))
}

func receive(t *testing.T, stream sending) *pb.IngestResponse {
	t.Helper()
	receipt, err := stream.CloseAndRecv()
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func (b *backend) kept(t *testing.T, docID string) []string {
	t.Helper()
	content, err := os.ReadFile(b.store.Path(docID))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
}

func (b *backend) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(b.directory)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func (b *backend) expectFiles(t *testing.T, expected ...string) {
	t.Helper()
	if names := b.files(t); strings.Join(names, " ") != strings.Join(expected, " ") {
		t.Errorf("the directory holds %q, want %q", names, expected)
	}
}

func requests(payloads ...any) []*pb.IngestRequest {
	var all []*pb.IngestRequest
	for _, payload := range payloads {
		switch payload := payload.(type) {
		case *pb.DocumentMetadata:
			all = append(all, &pb.IngestRequest{
				Payload: &pb.IngestRequest_Metadata{Metadata: payload},
			})
		case *pb.DocumentChunk:
			all = append(all, &pb.IngestRequest{
				Payload: &pb.IngestRequest_Chunk{Chunk: payload},
			})
		}
	}
	return all
}

func document(id string) *pb.DocumentMetadata {
	return &pb.DocumentMetadata{DocId: id, TaskId: "task", Attempt: 1}
}

func chunk(index int32) *pb.DocumentChunk {
	digit := string(rune('0' + index))
	return &pb.DocumentChunk{
		Id: "id-" + digit, Index: index, Chapter: "Chapter", Page: 3, PageEnd: 4,
		Content: "text " + digit, TokenCount: 7,
	}
}

// eventLog is a writer for a JSON log, a line at a time, that a test can wait on.
type eventLog struct{ events chan map[string]any }

func newEventLog() *eventLog { return &eventLog{make(chan map[string]any, 1000)} }

func (e *eventLog) Write(line []byte) (int, error) {
	var event map[string]any
	err := json.Unmarshal(line, &event)
	e.events <- event
	return len(line), err
}

// await returns the next event of a name, and drops those before it.
func (e *eventLog) await(t *testing.T, name string) map[string]any {
	t.Helper()
	for event := range e.events {
		t.Log(event)
		if event["msg"] == name {
			return event
		}
	}
	return nil
}
