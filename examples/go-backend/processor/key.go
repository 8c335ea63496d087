package processor

import (
	"context"

	"cognicore/pb"
)

// Key is what the processor embeds a task's chunks with.
type Key struct {
	Provider string // "openai", "gemini", or another that the processor knows
	Secret   string
}

// ProvideKey hands the key of one task over. It may come before, while or after the
// task is taken from the queue, and again: the newest wins. While the processor cannot
// keep it, ProvideKey tries again until ctx ends; a key that it will not have is
// Refused.
func (c *Client) ProvideKey(ctx context.Context, taskID string, key Key) error {
	return c.retry(ctx, callTimeout, "ProvideAPIKey", func(ctx context.Context) error {
		answer, err := c.Keys.ProvideAPIKey(ctx, &pb.APIKeyRequest{
			TaskId: taskID, ApiKey: key.Secret, Provider: key.Provider,
		})
		if err != nil {
			return err
		}
		if !answer.GetSuccess() {
			return Refused{answer.GetMessage()}
		}
		return nil
	})
}
