package processor

import (
	"context"

	"cognicore/pb"
)

// Embed has the key's provider make the vector of a text, such as a user's question.
// taskID is for the processor's log. It tries again while the processor is away or
// busy; what the provider or the processor will not do is Refused.
func (c *Client) Embed(ctx context.Context, taskID, text string, key Key) ([]float32, error) {
	var vector []float32
	err := c.retry(ctx, embedTimeout, "GetEmbedding", func(ctx context.Context) error {
		answer, err := c.Embeddings.GetEmbedding(ctx, &pb.EmbeddingRequest{
			TaskId: taskID, Text: text, ApiKey: key.Secret, Provider: key.Provider,
		})
		if err != nil {
			return err
		}
		if !answer.GetSuccess() {
			return Refused{answer.GetMessage()}
		}
		vector = answer.GetEmbeddings()
		return nil
	})
	return vector, err
}

// Vector has the processor's local model make the vector of a text: no key, no provider.
func (c *Client) Vector(ctx context.Context, text string) ([]float32, error) {
	var vector []float32
	err := c.retry(ctx, embedTimeout, "GetVector", func(ctx context.Context) error {
		answer, err := c.Vectors.GetVector(ctx, &pb.TextRequest{Text: text})
		vector = answer.GetVector()
		return err
	})
	return vector, err
}
