package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
	"github.com/amieusage/amieusage/api"
)

const healthPath = "/healthz"

// A route is a path and what is served there.
type route struct {
	path    string
	hint    string // for those who call it with another method
	methods map[string]endpoint
}

// table lists what is served where, as package api describes it.
func (h *Handler) table() []route {
	return []route{
		{healthPath, "", map[string]endpoint{http.MethodGet: h.health}},
		{Prefix + "/openapi.yaml", "", map[string]endpoint{http.MethodGet: description}},
		{Prefix + "/usage", "records are sent with POST; what became of them is at usage/status, usage/failed and usage/loaded",
			map[string]endpoint{http.MethodPost: h.guarded(h.send)}},
		{Prefix + "/usage/failed", "failed records are cleared by their ids, as in DELETE " + Prefix + "/usage/failed/17,18",
			map[string]endpoint{http.MethodGet: h.reading(h.failed)}},
		{Prefix + "/usage/failed/{ids}", "the failed records themselves are at usage/failed",
			map[string]endpoint{http.MethodDelete: h.reading(h.clear)}},
		{Prefix + "/usage/status", "", map[string]endpoint{http.MethodGet: h.reading(h.status)}},
		{Prefix + "/usage/loaded", "", map[string]endpoint{http.MethodGet: h.reading(h.loaded)}},
		{Prefix + "/usage/summary", "", map[string]endpoint{http.MethodGet: h.reading(h.summary)}},
	}
}

// routes registers the table. A path that is known is 405 for other methods,
// and what is not known is 404: neither needs a key. GET serves HEAD too.
func (h *Handler) routes() {
	for _, r := range h.table() {
		for method, e := range r.methods {
			h.handle(method+" "+r.path, e)
		}
		allowed := slices.Sorted(maps.Keys(r.methods))
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		h.handle(r.path, otherMethod(strings.Join(allowed, ", "), r.hint))
	}
	h.handle("/", notFound)
}

func (h *Handler) handle(pattern string, e endpoint) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, e) })
}

// otherMethod refuses what a path does not allow.
func otherMethod(allow, hint string) endpoint {
	return func(x *exchange) (*answer, error) {
		return nil, &refusal{
			header: http.Header{"Allow": {allow}},
			err: &amieusage.Error{
				Code:    amieusage.CodeMethodNotAllowed,
				Message: "the method " + strconv.Quote(cut(x.Method, 32)) + " is not allowed here, only " + allow,
				Hint:    hint,
			},
		}
	}
}

func notFound(x *exchange) (*answer, error) {
	return nil, &amieusage.Error{
		Code:    amieusage.CodeNotFound,
		Message: "there is nothing at " + strconv.Quote(cut(x.URL.Path, 128)),
		Hint: "the base URL of the Usage API ends in " + Prefix +
			"; below it are usage, usage/failed, usage/failed/{ids}, usage/status, usage/loaded and usage/summary, and openapi.yaml describes them",
	}
}

// health answers GET /healthz: 200 while sends are accepted.
func (h *Handler) health(*exchange) (*answer, error) {
	if h.stopping.Load() {
		return nil, errStopping
	}
	return jsonAnswer(struct {
		Status string `json:"status"`
	}{"ok"})
}

// description answers GET openapi.yaml.
func description(*exchange) (*answer, error) {
	return &answer{status: http.StatusOK, contentType: "application/yaml", body: api.OpenAPI}, nil
}

// routeOf returns the path of a pattern, which may have a method before it.
func routeOf(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		return path
	}
	return pattern
}

// methodOf returns the method for a metric: what a client makes up is one.
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}
