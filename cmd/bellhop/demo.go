package main

import (
	"context"
	"errors"
	"io"
)

func demo(ctx context.Context, stay bool, stdout io.Writer) error {
	return errors.New("demo is not there yet")
}
