package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"cognicore/pb"
	"cognicore/processor"
)

func TestRunPushesAndReceivesADocument(t *testing.T) {
	t.Setenv("EMBEDDING_API_KEY", "secret")
	fake := newFakeProcessor(t)
	out := t.TempDir()

	code := fake.command(t, "run", "-listen", "127.0.0.1:0", "-out", out, "-verbose",
		"-url", "https://files/a.pdf?signature=hidden", "-task-id", "task", "-doc-id", "doc")

	if code != 0 {
		t.Errorf("exit %d: %s", code, fake.stdout)
	}
	isStatus := func(event string) bool { return event == "status" } // comes on a stream of its own
	events := slices.DeleteFunc(fake.events(t), isStatus)
	expected := []string{"listening", "pushed", "key_provided", "chunk", "document", "arrived"}
	if !slices.Equal(events, expected) {
		t.Errorf("events: %q\nwant %q", events, expected)
	}
	if _, err := os.Stat(filepath.Join(out, "doc.jsonl")); err != nil {
		t.Error(err)
	}
	if strings.Contains(fake.stdout.String(), "hidden") || strings.Contains(fake.stdout.String(), "secret") {
		t.Errorf("a secret was printed: %s", fake.stdout)
	}
	if list, _ := fake.redis.List(processor.DefaultQueue); len(list) != 1 {
		t.Errorf("the queue holds %q", list)
	}
}

func TestRunFailsWhereTheDocumentWentElsewhere(t *testing.T) {
	fake := newFakeProcessor(t)
	fake.end = &pb.TaskStatus{State: pb.TaskStatus_SUCCEEDED}
	code := fake.command(t, "run", "-listen", "127.0.0.1:0", "-out", t.TempDir(), "-url", "u")
	if code != 1 {
		t.Errorf("exit %d: %s", code, fake.stdout)
	}
}

func TestSubmitFailsWithTheTask(t *testing.T) {
	fake := newFakeProcessor(t)
	for state, expected := range map[pb.TaskStatus_State]int{
		pb.TaskStatus_SUCCEEDED: 0, pb.TaskStatus_DEAD: 1, pb.TaskStatus_CANCELLED: 1,
	} {
		fake.end = &pb.TaskStatus{State: state}
		if code := fake.command(t, "submit", "-url", "u"); code != expected {
			t.Errorf("%v: exit %d, want %d", state, code, expected)
		}
	}
}

func TestDeadTaskIsExplained(t *testing.T) {
	for expected, final := range map[string]*pb.TaskStatus{
		"CANCELLED": {State: pb.TaskStatus_CANCELLED},
		"DEAD NOT_A_PDF: The file is not a PDF.": {
			State: pb.TaskStatus_DEAD, ErrorCode: "NOT_A_PDF", ErrorMessage: "The file is not a PDF.",
		},
	} {
		if err := verdict(final); err == nil || err.Error() != expected {
			t.Errorf("got %v, want %s", err, expected)
		}
	}
}

func TestKeyIsProvidedAgainWhenTheProcessorWaitsForIt(t *testing.T) {
	t.Setenv("EMBEDDING_API_KEY", "secret")
	fake := newFakeProcessor(t)
	fake.begin = pb.TaskStatus_WAITING_FOR_KEY
	fake.end = &pb.TaskStatus{State: pb.TaskStatus_SUCCEEDED}
	fake.command(t, "submit", "-url", "u")
	expected := []string{"pushed", "key_provided", "status", "key_provided", "status"}
	if events := fake.events(t); !slices.Equal(events, expected) {
		t.Errorf("events: %q\nwant %q", events, expected)
	}
}

func TestEmbedPrintsTheDimension(t *testing.T) {
	t.Setenv("EMBEDDING_API_KEY", "secret")
	for _, flag := range []string{"-provider=openai", "-vector"} {
		fake := newFakeProcessor(t)
		code := fake.command(t, "embed", "-text", "hello", flag)
		if code != 0 || !strings.Contains(fake.stdout.String(), `"dimension":6,"first":[1,2,3,4,5]}`) {
			t.Errorf("exit %d: %s", code, fake.stdout)
		}
	}
}

func TestServeEndsWellWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	args := []string{"serve", "-listen", "127.0.0.1:0", "-out", t.TempDir()}
	if code := start(ctx, args, &bytes.Buffer{}); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestWrongUsageExitsWith2(t *testing.T) {
	for _, line := range []string{
		"", "nonsense", "submit", "run", "embed", "embed -text a", "serve -nonsense", "serve extra",
		"submit -url u -redis nonsense:password",
	} {
		if code := start(t.Context(), strings.Fields(line), &bytes.Buffer{}); code != 2 {
			t.Errorf("%q: exit %d", line, code)
		}
	}
}

func TestHelpShowsNoSecret(t *testing.T) {
	t.Setenv("REDIS_URL", "redis://:password@host")
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	os.Stderr = file
	if code := start(t.Context(), []string{"run", "-h"}, &bytes.Buffer{}); code != 0 {
		t.Errorf("exit %d", code)
	}
	help, _ := os.ReadFile(file.Name())
	if !bytes.Contains(help, []byte("-url")) || bytes.Contains(help, []byte("password")) {
		t.Errorf("help: %s", help)
	}
}

// ------------------------------------------------------------------- fixtures

// fakeProcessor reports `begin` for every task and then its end; without a given end
// it sends one document to the backend, where that says it listens, and tells how it went.
type fakeProcessor struct {
	pb.UnimplementedAPIKeyServiceServer
	pb.UnimplementedTaskServiceServer
	pb.UnimplementedVectorizerServiceServer
	pb.UnimplementedEmbeddingServiceServer

	address string
	redis   *miniredis.Miniredis
	begin   pb.TaskStatus_State
	end     *pb.TaskStatus
	stdout  *lockedBuffer
}

func newFakeProcessor(t *testing.T) *fakeProcessor {
	t.Helper()
	f := &fakeProcessor{
		redis: miniredis.RunT(t), begin: pb.TaskStatus_PROCESSING, stdout: &lockedBuffer{},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	server := grpc.NewServer()
	pb.RegisterAPIKeyServiceServer(server, f)
	pb.RegisterTaskServiceServer(server, f)
	pb.RegisterVectorizerServiceServer(server, f)
	pb.RegisterEmbeddingServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return f
}

func (f *fakeProcessor) command(t *testing.T, args ...string) int {
	t.Helper()
	t.Setenv("PROCESSOR_ADDR", f.address)
	t.Setenv("EMBEDDING_ADDR", f.address)
	t.Setenv("REDIS_URL", "redis://"+f.redis.Addr())
	return start(t.Context(), args, f.stdout)
}

func (f *fakeProcessor) events(t *testing.T) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(f.stdout.String()) {
		var event struct {
			Event string `json:"event"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		names = append(names, event.Event)
	}
	return names
}

func (f *fakeProcessor) ProvideAPIKey(
	context.Context, *pb.APIKeyRequest,
) (*pb.APIKeyResponse, error) {
	return &pb.APIKeyResponse{Success: true}, nil
}

func (f *fakeProcessor) WatchTask(
	request *pb.TaskRequest, stream grpc.ServerStreamingServer[pb.TaskStatus],
) error {
	if err := stream.Send(&pb.TaskStatus{State: f.begin}); err != nil {
		return err
	}
	if f.end != nil {
		return stream.Send(f.end)
	}
	if err := f.ingest(stream.Context(), request.GetTaskId()); err != nil {
		return stream.Send(&pb.TaskStatus{
			State: pb.TaskStatus_DEAD, ErrorCode: "INGEST_UNAVAILABLE", ErrorMessage: err.Error(),
		})
	}
	return stream.Send(&pb.TaskStatus{State: pb.TaskStatus_SUCCEEDED})
}

func (f *fakeProcessor) ingest(ctx context.Context, taskID string) error {
	var listening struct{ Address string }
	line, _, _ := strings.Cut(f.stdout.String(), "\n")
	if err := json.Unmarshal([]byte(line), &listening); err != nil {
		return err
	}
	connection, err := grpc.NewClient(listening.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream, err := pb.NewIngestServiceClient(connection).IngestDocument(ctx)
	if err != nil {
		return err
	}
	metadata := &pb.DocumentMetadata{DocId: "doc", TaskId: taskID}
	_ = stream.Send(&pb.IngestRequest{Payload: &pb.IngestRequest_Metadata{Metadata: metadata}})
	chunk := &pb.DocumentChunk{Content: "text"}
	_ = stream.Send(&pb.IngestRequest{Payload: &pb.IngestRequest_Chunk{Chunk: chunk}})
	_, err = stream.CloseAndRecv()
	return err
}

func (f *fakeProcessor) GetEmbedding(
	context.Context, *pb.EmbeddingRequest,
) (*pb.EmbeddingResponse, error) {
	return &pb.EmbeddingResponse{Success: true, Embeddings: []float32{1, 2, 3, 4, 5, 6}}, nil
}

func (f *fakeProcessor) GetVector(context.Context, *pb.TextRequest) (*pb.VectorResponse, error) {
	return &pb.VectorResponse{Vector: []float32{1, 2, 3, 4, 5, 6}}, nil
}

type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.String()
}
