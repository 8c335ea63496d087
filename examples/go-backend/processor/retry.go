package processor

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// Refused is the processor's `success=false`: asking again cannot help.
type Refused struct {
	Message string
}

func (r Refused) Error() string { return r.Message }

// retry repeats a call that failed for a passing reason, until ctx ends. Every try may
// take as long as timeout.
func (c *Client) retry(
	ctx context.Context, timeout time.Duration, name string, call func(context.Context) error,
) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := once(ctx, timeout, call)
		if !passing(err) {
			return err
		}
		c.log.Warn("call_failed", "call", name, "error", err.Error())
		if !sleep(ctx, pause) {
			return err
		}
	}
}

func once(ctx context.Context, timeout time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return call(ctx)
}

// passing: the processor restarts, its Redis is away, or it has too much to do.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
