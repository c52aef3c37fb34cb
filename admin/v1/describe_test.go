package v1

import (
	"slices"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"bellhop/admin/access"
	"bellhop/admin/ops"
)

// registeredAPI returns an API with all operations, which are not to be called.
func registeredAPI() huma.API {
	a := &API{ops: new(ops.Operations), mux: access.NewMux(WriteError)}
	api := humago.New(a.mux, newConfig("1"))
	a.register(api)
	return api
}

// Every body in /openapi.json has an example that is valid by its schema, and every operation,
// parameter, response, header and field has a description.
func TestDescriptionHasValidExamples(t *testing.T) {
	api := registeredAPI()
	describe(api)
	schemas := describeSchemas(api.OpenAPI().Components.Schemas)
	described := func(text, format string, args ...any) {
		if text == "" {
			t.Errorf("no description of "+format, args...)
		}
	}
	for name, schema := range schemas.Map() {
		shown := valueOf(schema).(map[string]any) // without the hidden fields
		properties, _ := shown["properties"].(map[string]any)
		for field, property := range properties {
			text, _ := property.(map[string]any)["description"].(string)
			described(text, "field %s.%s", name, field)
		}
	}
	bodies := 0
	checkBodies := func(where string, mode huma.ValidateMode, content map[string]*huma.MediaType) {
		for mediaType, body := range content {
			if mediaType == svgType || mediaType == textType || mediaType == pcapType {
				continue
			}
			bodies++
			var found huma.ValidateResult
			huma.Validate(schemas, body.Schema, huma.NewPathBuffer(nil, 0), mode, body.Example, &found)
			for _, err := range found.Errors {
				t.Errorf("%s: %s: %v", where, mediaType, err)
			}
		}
	}
	var names []string
	for _, tag := range tags {
		names = append(names, tag.Name)
		described(tag.Description, "tag %s", tag.Name)
	}
	for path, item := range api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			where := op.Method + " " + path
			described(op.Description, "%s", where)
			if len(op.Tags) != 1 || !slices.Contains(names, op.Tags[0]) {
				t.Errorf("%s has tags %q", where, op.Tags)
			}
			for _, p := range op.Parameters {
				described(p.Description, "%s: parameter %s", where, p.Name)
			}
			if op.RequestBody != nil {
				checkBodies(where, huma.ModeWriteToServer, op.RequestBody.Content)
			}
			for status, response := range op.Responses {
				described(response.Description, "%s: %s", where, status)
				for name, header := range response.Headers {
					described(header.Description, "%s: %s: header %s", where, status, name)
				}
				checkBodies(where+" "+status, huma.ModeReadFromServer, response.Content)
			}
		}
	}
	if bodies < 200 {
		t.Errorf("checked only %d bodies", bodies)
	}
}
