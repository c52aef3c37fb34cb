package cli

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bellhop/cmd/bellhop/config"
	"bellhop/notify/send"
	"bellhop/notify/subscription"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the signature of a received callback",
		Long: `Verify the signature and the age of a received callback. The exit status is 0 if
both are valid, 1 if not, and 2 if a flag is wrong.

Pass the body on stdin, byte for byte as received. A GET has no body: pass the
query behind the ? of its URL as --query, unchanged. With --request, stdin is
the whole request: request line, headers and body.`,
		Example: `  bellhop verify --secret env:SECRET --id "$id" --timestamp "$ts" --signature "$sig" < body
  bellhop verify --secret env:SECRET --id "$id" --timestamp "$ts" --signature "$sig" --query "$QUERY_STRING"
  bellhop verify --secret file:secret --request < request`,
		Args: cobra.NoArgs,
	}
	var v verification
	f := cmd.Flags()
	f.StringVar(&v.secret, "secret", "", "signing `secret`, whsec_…, or where it is: env:NAME or file:PATH")
	f.StringVar(&v.callback.ID, "id", "", "`value` of the header webhook-id")
	f.StringVar(&v.callback.Timestamp, "timestamp", "", "`value` of the header webhook-timestamp")
	f.StringVar(&v.callback.Signature, "signature", "", "`value` of the header webhook-signature")
	f.StringVar(&v.query, "query", "", "raw `query` of a GET request")
	f.BoolVar(&v.whole, "request", false, "read a whole HTTP request from stdin")
	f.DurationVar(&v.tolerance, "tolerance", 5*time.Minute, "largest `age` to accept, into the future too; 0 accepts any")
	asJSON := f.Bool("json", false, "print JSON")
	cmd.MarkFlagRequired("secret")
	for _, name := range []string{"id", "timestamp", "signature", "query"} {
		cmd.MarkFlagsMutuallyExclusive("request", name)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		secret, err := config.Resolve(v.secret)
		if err != nil {
			return usageError{fmt.Errorf("--secret: %w", err)}
		}
		if v.tolerance < 0 {
			return usageError{fmt.Errorf("--tolerance must not be negative: %v: use 0 to accept any age", v.tolerance)}
		}
		v.secret, v.get = secret, f.Changed("query")
		return v.report(v.verify(cmd.InOrStdin()), *asJSON, cmd.OutOrStdout())
	}
	return cmd
}

// A verification has the flags of bellhop verify.
type verification struct {
	secret    string
	callback  send.Callback // without the payload until stdin is read
	query     string
	get       bool // the payload is the query
	whole     bool // stdin is a whole request
	tolerance time.Duration
}

// verify reads the payload from stdin and checks the signature and the age.
func (v *verification) verify(stdin io.Reader) (err error) {
	switch {
	case v.whole:
		v.callback, err = readCallback(stdin)
	case v.get:
		v.callback.Payload = []byte(v.query)
	default:
		v.callback.Payload, err = io.ReadAll(stdin)
	}
	if err != nil {
		return err
	}
	return v.callback.Verify(subscription.Secret(v.secret), time.Now(), v.tolerance)
}

// readCallback reads a whole HTTP request. If it has neither a Content-Length nor a
// Transfer-Encoding, the body ends with stdin.
func readCallback(stdin io.Reader) (send.Callback, error) {
	in := bufio.NewReader(stdin)
	req, err := http.ReadRequest(in)
	if err != nil {
		return send.Callback{}, fmt.Errorf("read HTTP request from stdin: %w", err)
	}
	c := send.Callback{
		ID:        req.Header.Get("Webhook-Id"),
		Timestamp: req.Header.Get("Webhook-Timestamp"),
		Signature: req.Header.Get("Webhook-Signature"),
	}
	if req.Method == http.MethodGet {
		_, query, _ := strings.Cut(req.RequestURI, "?")
		c.Payload = []byte(query)
		return c, nil
	}
	var body io.Reader = req.Body
	if req.Header.Get("Content-Length") == "" && req.TransferEncoding == nil {
		body = in
	}
	if c.Payload, err = io.ReadAll(body); err != nil {
		return c, fmt.Errorf("read body: %w", err)
	}
	return c, nil
}

// report prints the result of verify: a line, or a JSON object if asJSON is set. It
// returns err, or ErrReported if the JSON object has the error.
func (v *verification) report(err error, asJSON bool, stdout io.Writer) error {
	c := v.callback
	var sent time.Time
	if seconds, err := strconv.ParseInt(c.Timestamp, 10, 64); err == nil {
		sent = time.Unix(seconds, 0).UTC()
	}
	if asJSON {
		var report struct {
			OK      bool      `json:"ok"`
			ID      string    `json:"id,omitempty"`
			Sent    time.Time `json:"sent,omitzero"`
			Problem string    `json:"problem,omitempty"`
		}
		report.OK, report.ID = err == nil, c.ID
		if y := sent.Year(); y > 0 && y < 10_000 { // other years have no JSON form
			report.Sent = sent
		}
		if err != nil {
			report.Problem = err.Error()
		}
		if err := writeJSON(stdout, report); err != nil {
			return err
		}
		if err != nil {
			return ErrReported
		}
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "signature valid: %s, sent %s\n", stripControls(c.ID), sent.Format(time.RFC3339))
	return err
}
