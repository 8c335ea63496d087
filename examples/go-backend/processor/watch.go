package processor

import (
	"context"

	"google.golang.org/protobuf/proto"

	"cognicore/pb"
)

// Watch calls changed with the task's status now and after every change, and returns
// the final one. A task that nobody took yet is waited for. When the stream ends early
// (the processor restarts, or too many already watch) it asks with GetTask and then
// tries the stream again, until ctx ends.
func (c *Client) Watch(
	ctx context.Context, taskID string, changed func(*pb.TaskStatus),
) (*pb.TaskStatus, error) {
	seen := &lastSeen{changed: changed}
	request := &pb.TaskRequest{TaskId: taskID}
	for {
		c.stream(ctx, request, seen)
		if seen.final() {
			return seen.status, nil
		}
		if err := c.ask(ctx, request, seen); passing(err) {
			c.log.Warn("call_failed", "call", "GetTask", "error", err.Error())
		} else if err != nil {
			return seen.status, err
		}
		if seen.final() {
			return seen.status, nil
		}
		if !sleep(ctx, c.pause) {
			return seen.status, ctx.Err()
		}
	}
}

// stream follows until a final state or any error: ask finds out what the error means.
func (c *Client) stream(ctx context.Context, request *pb.TaskRequest, seen *lastSeen) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates, err := c.Tasks.WatchTask(ctx, request)
	if err != nil {
		return
	}
	for !seen.final() {
		update, err := updates.Recv()
		if err != nil {
			return
		}
		seen.see(update)
	}
}

func (c *Client) ask(ctx context.Context, request *pb.TaskRequest, seen *lastSeen) error {
	return once(ctx, callTimeout, func(ctx context.Context) error {
		update, err := c.Tasks.GetTask(ctx, request)
		if err == nil {
			seen.see(update)
		}
		return err
	})
}

// lastSeen passes on what differs from the status before it.
type lastSeen struct {
	status  *pb.TaskStatus
	changed func(*pb.TaskStatus)
}

func (l *lastSeen) see(update *pb.TaskStatus) {
	if l.status == nil || !proto.Equal(l.status, update) {
		l.status = update
		l.changed(update)
	}
}

func (l *lastSeen) final() bool {
	switch l.status.GetState() {
	case pb.TaskStatus_SUCCEEDED, pb.TaskStatus_DEAD, pb.TaskStatus_CANCELLED:
		return true
	default:
		return false
	}
}
