package main

import (
	"context"
	"errors"
	"io"
)

func serve(ctx context.Context, path string, stdout io.Writer) error {
	if _, err := load(path); err != nil {
		return err
	}
	return errors.New("serve is not there yet")
}
