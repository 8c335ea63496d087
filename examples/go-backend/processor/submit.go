package processor

import (
	"context"
	"encoding/json"

	"github.com/redis/go-redis/v9"
)

// DefaultQueue is the list that the processor takes tasks from.
const DefaultQueue = "queue:upload_tasks"

// Task is one document to process. The processor needs TaskID and URL; a fresh TaskID
// for every upload is best, because one that is pushed again while it waits, runs or
// within a day after it succeeded is not processed twice.
type Task struct {
	DocID    string
	UserID   string
	FileName string
	URL      string // presigned or public: a secret, so keep it out of logs
	FileSize int64  // bytes
	TaskID   string `json:"task_id"`
}

// Submit appends the task to the queue.
func Submit(ctx context.Context, client redis.Cmdable, queue string, task Task) error {
	payload, err := json.Marshal(task)
	if err != nil {
		return err
	}
	return client.RPush(ctx, queue, payload).Err()
}
