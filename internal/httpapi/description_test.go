package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/google/go-cmp/cmp"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/api"
)

// described returns the description of the API, and what finds its routes.
var described = sync.OnceValues(func() (*openapi3.T, routers.Router) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		panic(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return doc, router
})

// Whatever is answered, the description has it, and whatever is served or
// refused, the description's word about the request is the same, but for
// these: they are named by what [exchangeName] returns.
var (
	// The service forgives more than it describes.
	forgiven = []string{
		"POST /api/v1/usage/ Content-Type ",
		"POST /api/v1/usage/ Content-Type application/x-www-form-urlencoded",
		"POST /api/v1/usage/ Content-Encoding X-GZIP",
		"DELETE /api/v1/usage/failed/2%2C1",
		"DELETE /api/v1/usage/failed/2,%203",
	}
	// What a schema cannot say, the text of the description does.
	unsayable = []string{
		"GET /api/v1/usage/status?FromTime=2026-10-02&ToTime=2026-10-01",
		"GET /api/v1/usage/status?FromTime=2026-10-02&fromtime=2026-10-01",
		"GET /api/v1/usage/status?FromTime=%zz",
		"GET /api/v1/usage/loaded?Cursor=x",
	}
)

// exchangeName names a request by what it asks for, and by the headers that it
// has of its own.
func exchangeName(r *http.Request) string {
	name := r.Method + " " + r.RequestURI
	if v := r.Header.Get("Content-Type"); r.Method == http.MethodPost && v != "application/json" {
		name += " Content-Type " + v
	}
	if v := r.Header.Get("Content-Encoding"); v != "" && v != "gzip" {
		name += " Content-Encoding " + v
	}
	return name
}

// checked returns the handler h; each exchange with it is held against the
// description.
func checked(t testing.TB, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := &sentBody{ReadCloser: r.Body}
		tapped := *r // net/http still needs the body that it made
		tapped.Body = sent
		answered := &answeredBody{ResponseWriter: w}
		h.ServeHTTP(answered, &tapped)
		name := exchangeName(r)
		refused, told := verdict(answered.status, answered.body.Bytes())
		input := &openapi3filter.RequestValidationInput{
			Request: r.Clone(r.Context()),
			Options: &openapi3filter.Options{
				AuthenticationFunc:                openapi3filter.NoopAuthenticationFunc,
				IncludeResponseStatus:             true,
				RejectWhenRequestBodyNotSpecified: true,
				SkipSettingDefaults:               true,
			},
		}
		var err error
		if input.Route, input.PathParams, err = findRoute(input.Request); err == nil {
			if err = sent.put(input.Request); err == nil {
				err = openapi3filter.ValidateRequest(r.Context(), input)
			}
		} else {
			input.Route = noRoute()
		}
		switch {
		case !told:
		case err != nil && !refused && !slices.Contains(forgiven, name):
			t.Errorf("%s is served, but not as described: %v", name, err)
		case err == nil && refused && !slices.Contains(unsayable, name):
			t.Errorf("%s is as described, but is refused: %s", name, answered.body.Bytes())
		case err == nil && !refused && slices.Contains(forgiven, name), err != nil && refused && slices.Contains(unsayable, name):
			t.Errorf("%s is no exception", name)
		}
		output := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: answered.status, Header: answered.Header(), Options: input.Options,
		}
		if err := openapi3filter.ValidateResponse(r.Context(), output.SetBodyBytes(answered.body.Bytes())); err != nil {
			t.Errorf("%s is answered %d, but not as described: %v", name, answered.status, err)
		}
	})
}

// verdict says whether an answer refuses its request or a record in it for
// what they are, and not, as other failures do, for what the service is about.
func verdict(status int, body []byte) (refused, told bool) {
	switch status {
	case http.StatusOK:
		var response struct{ Message, FailedRecords json.RawMessage }
		// What is no JSON or is a list is no answer to a send.
		_ = json.Unmarshal(body, &response)
		return response.Message != nil && response.FailedRecords != nil && string(response.FailedRecords) != "[]", true
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		return true, true
	}
	return false, false
}

// findRoute finds what the description says of a request. Doubled and trailing
// slashes mean nothing.
func findRoute(r *http.Request) (*routers.Route, map[string]string, error) {
	_, router := described()
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet
		defer func() { r.Method = http.MethodHead }()
	}
	route, parameters, err := router.FindRoute(r)
	if err != nil {
		clean, parseErr := url.Parse(path.Clean(r.URL.EscapedPath()))
		if parseErr != nil {
			return nil, nil, parseErr
		}
		r.URL.Path, r.URL.RawPath = clean.Path, clean.RawPath
		route, parameters, err = router.FindRoute(r)
	}
	return route, parameters, err
}

// noRoute stands for all that is not described.
func noRoute() *routers.Route {
	doc, _ := described()
	return &routers.Route{Spec: doc, Operation: &openapi3.Operation{Responses: openapi3.NewResponses(
		openapi3.WithStatus(http.StatusNotFound, doc.Components.Responses["NotFound"]),
		openapi3.WithStatus(http.StatusMethodNotAllowed, doc.Components.Responses["MethodNotAllowed"]),
	)}}
}

// A sentBody keeps what is read of a request's body.
type sentBody struct {
	io.ReadCloser
	read bytes.Buffer
	err  error // the end of the body, other than io.EOF
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Write(p[:n])
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// put makes the body, unzipped, that of a request.
func (b *sentBody) put(r *http.Request) error {
	body := b.read.Bytes()
	if strings.HasSuffix(strings.ToLower(r.Header.Get("Content-Encoding")), "gzip") {
		unzipped, err := gzip.NewReader(&b.read)
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(io.LimitReader(unzipped, amieusage.MaxRequestBytes)); err != nil {
			return err
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return b.err
}

// An answeredBody keeps what is answered.
type answeredBody struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (b *answeredBody) WriteHeader(status int) {
	b.status = status
	b.ResponseWriter.WriteHeader(status)
}

func (b *answeredBody) Write(p []byte) (int, error) {
	b.body.Write(p)
	return b.ResponseWriter.Write(p)
}

// The description is one, and its examples are as it says.
func TestDescription(t *testing.T) {
	doc, _ := described()
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	for name, ref := range doc.Components.Schemas {
		for _, example := range ref.Value.Examples {
			if err := ref.Value.VisitJSON(example, openapi3.EnableJSONSchema2020()); err != nil {
				t.Errorf("the example %v of %s: %v", example, name, err)
			}
		}
	}
	b := newBench(t)
	answer := b.call(t, "GET", "/api/v1/openapi.yaml", "", "XA-SITE", "", "XA-API-KEY", "")
	if got := answer.header.Get("Content-Type"); answer.status != 200 || got != "application/yaml" || !bytes.Equal(answer.body, api.OpenAPI) {
		t.Errorf("answer %d, Content-Type %q, %d bytes", answer.status, got, len(answer.body))
	}
}

// What is described is served, and what is served is described.
func TestDescriptionHoldsEveryRoute(t *testing.T) {
	doc, _ := described()
	var want []string
	for template, item := range doc.Paths.Map() {
		servers := doc.Servers
		if len(item.Servers) > 0 {
			servers = item.Servers
		}
		for method := range item.Operations() {
			want = append(want, method+" "+path.Join(servers[0].URL, template))
		}
	}
	slices.Sort(want)
	got := newBench(t).handler.Routes()
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
		t.Errorf("described (-), served (+):\n%s", diff)
	}
}

// Each code of an error is the one of its status, and its answer is described.
func TestDescriptionHoldsEveryCode(t *testing.T) {
	doc, _ := described()
	var want, got []string
	for _, code := range doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		want = append(want, fmt.Sprint(amieusage.Code(fmt.Sprint(code)).HTTPStatus(), " ", code))
	}
	for name, response := range doc.Components.Responses {
		schema := response.Value.Content["application/problem+json"].Schema
		var consts struct {
			Properties struct {
				Status struct{ Const int }
				Code   struct{ Const string }
			}
		}
		data, err := json.Marshal(schema)
		if err = errors.Join(err, json.Unmarshal(data, &consts)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got = append(got, fmt.Sprint(consts.Properties.Status.Const, " ", consts.Properties.Code.Const))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("codes (-), answers (+):\n%s", diff)
	}
}
