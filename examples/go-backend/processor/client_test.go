package processor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"cognicore/pb"
)

func TestSubmitPushesTheDescribedFields(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	task := Task{
		DocID: "d", UserID: "u", FileName: "f.pdf", URL: "https://files/f.pdf?a=1&b=<2>",
		FileSize: 12, TaskID: "t",
	}
	for range 2 {
		if err := Submit(t.Context(), client, "queue:upload_tasks", task); err != nil {
			t.Fatal(err)
		}
		task.TaskID = "later"
	}

	list, _ := server.List("queue:upload_tasks")
	if len(list) != 2 {
		t.Fatalf("the queue holds %q", list)
	}
	var pushed map[string]any
	if err := json.Unmarshal([]byte(list[0]), &pushed); err != nil {
		t.Fatal(err)
	}
	expected := map[string]any{
		"DocID": "d", "UserID": "u", "FileName": "f.pdf", "URL": "https://files/f.pdf?a=1&b=<2>",
		"FileSize": 12.0, "task_id": "t",
	}
	if !maps.Equal(pushed, expected) {
		t.Errorf("pushed %v, want %v", pushed, expected)
	}
}

func TestProvideKeyTriesAgainUntilTheKeyIsKept(t *testing.T) {
	fake := &fakeProcessor{keyErrors: []error{
		status.Error(codes.Unavailable, "Redis is away"),
		status.Error(codes.ResourceExhausted, "too many"),
	}}
	client := fake.start(t, "")
	if err := client.ProvideKey(t.Context(), "task", Key{"gemini", "secret"}); err != nil {
		t.Fatal(err)
	}
	if len(fake.keys) != 3 {
		t.Fatalf("%d calls", len(fake.keys))
	}
	got := fake.keys[2]
	if got.GetTaskId() != "task" || got.GetProvider() != "gemini" || got.GetApiKey() != "secret" {
		t.Errorf("provided %v", got)
	}
}

func TestProvideKeyGivesUpWhenItsContextEnds(t *testing.T) {
	fake := &fakeProcessor{keyErrors: slices.Repeat(
		[]error{status.Error(codes.Unavailable, "Redis is away")}, 1000)}
	client := fake.start(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	fake.onKey = cancel
	err := client.ProvideKey(ctx, "task", Key{"openai", "secret"})
	if err == nil || len(fake.keys) != 1 {
		t.Errorf("%d calls, then %v", len(fake.keys), err)
	}
}

func TestRefusedKeyIsNotProvidedAgain(t *testing.T) {
	fake := &fakeProcessor{refusal: "unknown provider"}
	err := fake.start(t, "").ProvideKey(t.Context(), "task", Key{"nobody", "secret"})
	var refused Refused
	if !errors.As(err, &refused) || refused.Message != "unknown provider" || len(fake.keys) != 1 {
		t.Errorf("%d calls, then %v", len(fake.keys), err)
	}
}

func TestWrongTokenIsNotTriedAgain(t *testing.T) {
	fake := &fakeProcessor{keyErrors: []error{status.Error(codes.Unauthenticated, "no")}}
	err := fake.start(t, "").ProvideKey(t.Context(), "task", Key{"openai", "secret"})
	if status.Code(err) != codes.Unauthenticated || len(fake.keys) != 1 {
		t.Errorf("%d calls, then %v", len(fake.keys), err)
	}
}

func TestEveryCallCarriesTheToken(t *testing.T) {
	fake := &fakeProcessor{}
	if err := fake.start(t, "token").ProvideKey(t.Context(), "task", Key{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(fake.authorization, []string{"Bearer token"}) {
		t.Errorf("authorization: %q", fake.authorization)
	}
}

func TestWatchReportsChangesUntilAFinalState(t *testing.T) {
	for _, end := range []pb.TaskStatus_State{
		pb.TaskStatus_SUCCEEDED, pb.TaskStatus_DEAD, pb.TaskStatus_CANCELLED,
	} {
		fake := &fakeProcessor{watches: [][]pb.TaskStatus_State{{
			pb.TaskStatus_UNKNOWN, pb.TaskStatus_PROCESSING, pb.TaskStatus_PROCESSING, end,
		}}}
		expectWatch(t, fake, pb.TaskStatus_UNKNOWN, pb.TaskStatus_PROCESSING, end)
	}
}

func TestWatchThatBreaksGoesOn(t *testing.T) {
	fake := &fakeProcessor{
		watches: [][]pb.TaskStatus_State{
			{pb.TaskStatus_DOWNLOADING},
			{pb.TaskStatus_PROCESSING, pb.TaskStatus_SUCCEEDED},
		},
		statuses: []pb.TaskStatus_State{pb.TaskStatus_DOWNLOADING},
	}
	expectWatch(t, fake,
		pb.TaskStatus_DOWNLOADING, pb.TaskStatus_PROCESSING, pb.TaskStatus_SUCCEEDED)
}

func TestWatchAsksWhereItCannotWatch(t *testing.T) {
	fake := &fakeProcessor{statuses: []pb.TaskStatus_State{
		pb.TaskStatus_PROCESSING, pb.TaskStatus_RETRYING, pb.TaskStatus_DEAD,
	}}
	expectWatch(t, fake, fake.statuses...)
}

func TestWatchEndsWhereNobodyAnswersForTasks(t *testing.T) {
	_, err := (&fakeProcessor{}).start(t, "").Watch(t.Context(), "task", func(*pb.TaskStatus) {})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	fake := &fakeProcessor{watches: [][]pb.TaskStatus_State{{pb.TaskStatus_PROCESSING}}}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := fake.start(t, "").Watch(ctx, "task", func(*pb.TaskStatus) { cancel() })
	if !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestEmbedReturnsTheVector(t *testing.T) {
	fake := &fakeProcessor{}
	vector, err := fake.start(t, "").Embed(t.Context(), "task", "text", Key{"openai", "secret"})
	if err != nil || !slices.Equal(vector, []float32{1, 2}) {
		t.Errorf("got %v, %v", vector, err)
	}
}

func TestEmbedSaysWhatWasRefused(t *testing.T) {
	fake := &fakeProcessor{refusal: "the key is wrong"}
	_, err := fake.start(t, "").Embed(t.Context(), "task", "text", Key{"openai", "secret"})
	if !reflect.DeepEqual(err, Refused{"the key is wrong"}) {
		t.Errorf("got %v", err)
	}
}

func TestVectorComesFromTheLocalModel(t *testing.T) {
	vector, err := (&fakeProcessor{}).start(t, "").Vector(t.Context(), "text")
	if err != nil || !slices.Equal(vector, []float32{3, 4}) {
		t.Errorf("got %v, %v", vector, err)
	}
}

// ------------------------------------------------------------------- fixtures

func expectWatch(t *testing.T, fake *fakeProcessor, expected ...pb.TaskStatus_State) {
	t.Helper()
	var seen []pb.TaskStatus_State
	final, err := fake.start(t, "").Watch(t.Context(), "task", func(s *pb.TaskStatus) {
		seen = append(seen, s.GetState())
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, expected) || final.GetState() != expected[len(expected)-1] {
		t.Errorf("saw %v, ended with %v; want %v", seen, final.GetState(), expected)
	}
}

// fakeProcessor answers from its lists. A list that is used up: keys are kept, tasks
// unimplemented.
type fakeProcessor struct {
	pb.UnimplementedAPIKeyServiceServer
	pb.UnimplementedTaskServiceServer
	pb.UnimplementedVectorizerServiceServer
	pb.UnimplementedEmbeddingServiceServer

	keyErrors []error
	refusal   string
	watches   [][]pb.TaskStatus_State // each stream then breaks, unless its last state is final
	statuses  []pb.TaskStatus_State
	onKey     func()

	keys          []*pb.APIKeyRequest
	authorization []string
}

// start serves the fake at both of the processor's ports.
func (f *fakeProcessor) start(t *testing.T, token string) *Client {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	pb.RegisterAPIKeyServiceServer(server, f)
	pb.RegisterTaskServiceServer(server, f)
	pb.RegisterVectorizerServiceServer(server, f)
	pb.RegisterEmbeddingServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := Dial("passthrough:///bufconn", token,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	client := New(connection, connection, slog.New(slog.NewTextHandler(io.Discard, nil)))
	client.pause = time.Millisecond
	return client
}

func (f *fakeProcessor) ProvideAPIKey(
	ctx context.Context, request *pb.APIKeyRequest,
) (*pb.APIKeyResponse, error) {
	f.keys = append(f.keys, request)
	f.authorization = metadata.ValueFromIncomingContext(ctx, "authorization")
	if f.onKey != nil {
		f.onKey()
	}
	if failure, any := next(&f.keyErrors); any {
		return nil, failure
	}
	return &pb.APIKeyResponse{Success: f.refusal == "", Message: f.refusal}, nil
}

func (f *fakeProcessor) WatchTask(
	request *pb.TaskRequest, stream grpc.ServerStreamingServer[pb.TaskStatus],
) error {
	states, any := next(&f.watches)
	if !any {
		return f.UnimplementedTaskServiceServer.WatchTask(request, stream)
	}
	for _, state := range states {
		if err := stream.Send(&pb.TaskStatus{TaskId: request.GetTaskId(), State: state}); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "the processor stops")
}

func (f *fakeProcessor) GetTask(
	ctx context.Context, request *pb.TaskRequest,
) (*pb.TaskStatus, error) {
	state, any := next(&f.statuses)
	if !any {
		return f.UnimplementedTaskServiceServer.GetTask(ctx, request)
	}
	return &pb.TaskStatus{TaskId: request.GetTaskId(), State: state}, nil
}

func (f *fakeProcessor) GetEmbedding(
	_ context.Context, request *pb.EmbeddingRequest,
) (*pb.EmbeddingResponse, error) {
	if f.refusal != "" || request.GetApiKey() == "" {
		return &pb.EmbeddingResponse{Message: f.refusal}, nil
	}
	return &pb.EmbeddingResponse{Success: true, Embeddings: []float32{1, 2}, Dimension: 2}, nil
}

func (f *fakeProcessor) GetVector(context.Context, *pb.TextRequest) (*pb.VectorResponse, error) {
	return &pb.VectorResponse{Vector: []float32{3, 4}}, nil
}

// next takes the first of a list.
func next[T any](list *[]T) (first T, any bool) {
	if len(*list) == 0 {
		return first, false
	}
	first, *list = (*list)[0], (*list)[1:]
	return first, true
}
