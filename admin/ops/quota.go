package ops

import (
	"context"
	"fmt"
	"regexp/syntax"
	"sync"

	"bellhop/admin/access"
)

// Limits of one token. The token of the config has only the limit maxProgramSize, because
// its holder could stop bellhop anyway. A program is the compiled form of an
// extension_regex; each of its instructions takes about 40 bytes.
const (
	MaxSubscriptionsPerToken = 10_000
	maxProgramSize           = 5_000 // instructions of one expression
	MaxProgramsPerToken      = 50_000
	MaxTestsPerToken         = 4 // in progress at a time
)

// quotaError is the error of a request that would exceed a limit of its token.
type quotaError struct{ text string }

func (e *quotaError) Error() string { return e.text }

// errManyTests is the error of a test or redelivery while MaxTestsPerToken others with
// the same token are in progress.
var errManyTests = fmt.Errorf("at most %d tests and redeliveries may run at a time with one token: wait for one to end", MaxTestsPerToken)

// ProgramSize estimates the number of instructions that an expression compiles to. It
// returns 0 if expr is empty or malformed. It does not compile expr, because that may
// take 100 MB.
func ProgramSize(expr string) int {
	if expr == "" {
		return 0
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return 0
	}
	return nodeSize(re)
}

// maxCountedSize bounds nodeSize, so that products do not overflow.
const maxCountedSize = 1 << 30

// nodeSize estimates the number of instructions of a node of the syntax tree.
func nodeSize(re *syntax.Regexp) int {
	n := 1
	for _, sub := range re.Sub {
		n += nodeSize(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		n += len(re.Rune)
	case syntax.OpCharClass:
		n += len(re.Rune) / 8 // a range has two runes
	case syntax.OpRepeat:
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, maxCountedSize)
}

// testLimiter counts the tests and redeliveries in progress by token.
type testLimiter struct {
	mu      sync.Mutex
	running map[string]int
}

// startTest counts a test or redelivery of the client of ctx, and returns the function
// that ends it. It returns errManyTests if the client's token has MaxTestsPerToken in
// progress. Those of the config's token are not counted.
func (ts *testLimiter) startTest(ctx context.Context) (end func(), err error) {
	client := access.ClientOf(ctx)
	if client == nil || client.ID == access.ConfigID {
		return func() {}, nil
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.running[client.ID] >= MaxTestsPerToken {
		return nil, errManyTests
	}
	if ts.running == nil {
		ts.running = make(map[string]int)
	}
	ts.running[client.ID]++
	return func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if ts.running[client.ID]--; ts.running[client.ID] == 0 {
			delete(ts.running, client.ID)
		}
	}, nil
}
