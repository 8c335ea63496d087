package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"cognicore/pb"
	"cognicore/processor"
)

const keyTimeout = time.Minute

type submitFlags struct {
	processorFlags
	taskFlags
}

func (s *submitFlags) register(flags *flag.FlagSet) {
	s.processorFlags.register(flags)
	s.taskFlags.register(flags)
}

func submit(ctx context.Context, args []string, stdout io.Writer) error {
	var flags submitFlags
	if err := parse("submit", args, flags.register, flags.complete); err != nil {
		return err
	}
	return flags.process(ctx, newLog(stdout, slog.LevelInfo))
}

// process is what a backend does for an upload: push the task, hand over its key,
// follow it to its end. An end other than SUCCEEDED is an error.
func (s *submitFlags) process(ctx context.Context, log *slog.Logger) error {
	client, closeClient, err := s.connect(log)
	if err != nil {
		return err
	}
	defer closeClient()
	if err := s.push(ctx); err != nil {
		return err
	}
	log.Info("pushed", "task_id", s.task.TaskID, "doc_id", s.task.DocID, "queue", s.queue)
	upload := upload{client: client, taskID: s.task.TaskID, key: s.key(), log: log}
	if err := upload.provideKey(ctx); err != nil {
		return fmt.Errorf("the key was not handed over: %w", err)
	}
	return upload.follow(ctx)
}

func (s *submitFlags) push(ctx context.Context) error {
	options, err := s.redisOptions()
	if err != nil {
		return err
	}
	queue := redis.NewClient(options)
	defer queue.Close()
	if err := processor.Submit(ctx, queue, s.queue, s.task); err != nil {
		return fmt.Errorf("the task was not pushed: %w", err)
	}
	return nil
}

// connect dials both ports; nothing happens on the wire yet.
func (p *processorFlags) connect(log *slog.Logger) (*processor.Client, func(), error) {
	token := os.Getenv("GRPC_AUTH_TOKEN")
	tasks, err := processor.Dial(p.address, token)
	if err != nil {
		return nil, nil, err
	}
	embedding, err := processor.Dial(p.embedding, token)
	if err != nil {
		return nil, nil, errors.Join(err, tasks.Close())
	}
	closeBoth := func() {
		_ = tasks.Close()
		_ = embedding.Close()
	}
	return processor.New(tasks, embedding, log), closeBoth, nil
}

// upload is a task on its way.
type upload struct {
	client *processor.Client
	taskID string
	key    processor.Key
	log    *slog.Logger
}

// provideKey does nothing without a key: the processor may have one of its own.
func (u *upload) provideKey(ctx context.Context) error {
	if u.key.Secret == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	if err := u.client.ProvideKey(ctx, u.taskID, u.key); err != nil {
		return err
	}
	u.log.Info("key_provided", "task_id", u.taskID, "provider", u.key.Provider)
	return nil
}

func (u *upload) follow(ctx context.Context) error {
	final, err := u.client.Watch(ctx, u.taskID, func(status *pb.TaskStatus) {
		logStatus(u.log, status)
		if status.GetState() == pb.TaskStatus_WAITING_FOR_KEY {
			u.provideKeyAgain(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("the task can no longer be followed: %w", err)
	}
	return verdict(final)
}

// verdict is nil for a task that succeeded; one that was cancelled has no error code.
func verdict(final *pb.TaskStatus) error {
	switch {
	case final.GetState() == pb.TaskStatus_SUCCEEDED:
		return nil
	case final.GetErrorCode() == "":
		return errors.New(final.GetState().String())
	default:
		return fmt.Errorf("%s %s: %s",
			final.GetState(), final.GetErrorCode(), final.GetErrorMessage())
	}
}

// provideKeyAgain is for a processor that restarted and forgot the key. It does no harm
// elsewhere, and where it fails the status will tell.
func (u *upload) provideKeyAgain(ctx context.Context) {
	if err := u.provideKey(ctx); err != nil {
		u.log.Warn("key_not_provided", "task_id", u.taskID, "error", err.Error())
	}
}

// logStatus leaves out what there is nothing to say about.
func logStatus(log *slog.Logger, status *pb.TaskStatus) {
	fields := []any{
		"task_id", status.GetTaskId(), "state", status.GetState().String(),
		"attempt", status.GetAttempt(),
		"pages_done", status.GetPagesDone(), "pages_total", status.GetPagesTotal(),
		"chunks_sent", status.GetChunksSent(),
	}
	if warnings := status.GetWarnings(); len(warnings) > 0 {
		fields = append(fields, "warnings", warnings)
	}
	if code := status.GetErrorCode(); code != "" {
		fields = append(fields, "error_code", code, "error_message", status.GetErrorMessage())
	}
	log.Info("status", fields...)
}
