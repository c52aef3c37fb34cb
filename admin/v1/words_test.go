package v1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants returns the sorted values of the string constants of a type in a folder of the
// repository; or, for constants without a type, of those declared together with first.
func constants(t *testing.T, folder, first string) (values []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(folder), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			together := decl.Specs[0].(*ast.ValueSpec).Names[0].Name == first
			for _, s := range decl.Specs {
				spec := s.(*ast.ValueSpec)
				if typ, ok := spec.Type.(*ast.Ident); !together && (!ok || typ.Name != first) {
					continue
				}
				for _, v := range spec.Values {
					value, err := strconv.Unquote(v.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, value)
				}
			}
		}
	}
	slices.Sort(values)
	return values
}

// An enum in /openapi.json has the values of all constants of its type, and no others.
func TestEnumsHaveAllConstants(t *testing.T) {
	schemas := describeSchemas(registeredAPI().OpenAPI().Components.Schemas).Map()
	for _, tt := range []struct {
		folder, typ string
		fields      []string
		except      string // constant that the fields never have
	}{
		{"dialog", "Type", []string{"Event.event_type", "Delivery.event_type"}, ""},
		{"dialog", "Flow", []string{"Event.call_flow", "Party.call_flow"}, ""},
		{"dialog", "Status", []string{"Event.call_status", "Party.call_status"}, ""},
		{"dialog", "HangupBy", []string{"Event.hangup_by"}, ""},
		{"dialog", "Kind", []string{"Extension.kind"}, ""},
		{"notify/subscription", "State", []string{"Subscription.state"}, ""},
		{"notify/subscription", "GroupOne", []string{"Subscription.group", "Change.group"}, ""},
		{"notify/payload", "Dialect", []string{"Subscription.dialect", "Change.dialect"}, ""},
		{"notify/deliverylog", "Waiting", []string{"Attempt.outcome", "Trial.outcome"}, ""},
		{"notify/deliverylog", "Waiting", []string{"Delivery.state"}, "failed"},
		{"admin/access", "Scope", []string{"Token.scope", "NewToken.scope"}, ""},
	} {
		want := slices.DeleteFunc(constants(t, tt.folder, tt.typ), func(value string) bool { return value == tt.except })
		if len(want) < 2 {
			t.Errorf("%s %s: found only %q", tt.folder, tt.typ, want)
		}
		for _, field := range tt.fields {
			schema, name, _ := strings.Cut(field, ".")
			var got []string
			for _, value := range schemas[schema].Properties[name].Enum {
				got = append(got, value.(string))
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s is one of %q, but the constants of %s are %q", field, got, tt.typ, want)
			}
		}
	}
}
