package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/amieusage/amieusage"
)

const healthPath = "/healthz"

// routes fills the table of what is served where. A path that is known is 405
// for other methods, and what is not known is 404: neither needs a key.
func (h *Handler) routes() {
	h.route(healthPath, "", map[string]endpoint{http.MethodGet: h.health})
	for _, r := range []struct {
		path    string
		hint    string // for those who call it with another method
		methods map[string]endpoint
	}{
		{"/usage", "records are sent with POST; what became of them is at usage/status, usage/failed and usage/loaded",
			map[string]endpoint{http.MethodPost: h.send}},
		{"/usage/failed", "failed records are cleared by their ids, as in DELETE " + Prefix + "/usage/failed/17,18",
			map[string]endpoint{http.MethodGet: h.failed}},
		{"/usage/failed/{ids}", "the failed records themselves are at usage/failed",
			map[string]endpoint{http.MethodDelete: h.clear}},
		{"/usage/status", "", map[string]endpoint{http.MethodGet: h.status}},
		{"/usage/loaded", "", map[string]endpoint{http.MethodGet: h.loaded}},
		{"/usage/summary", "", map[string]endpoint{http.MethodGet: h.summary}},
	} {
		for method, e := range r.methods {
			r.methods[method] = h.guarded(e)
		}
		h.route(Prefix+r.path, r.hint, r.methods)
	}
	h.handle("/", notFound)
}

// route registers a path with its methods. GET serves HEAD too.
func (h *Handler) route(path, hint string, methods map[string]endpoint) {
	for method, e := range methods {
		h.handle(method+" "+path, e)
	}
	allowed := slices.Sorted(maps.Keys(methods))
	if slices.Contains(allowed, http.MethodGet) {
		allowed = append(allowed, http.MethodHead)
	}
	allow := strings.Join(allowed, ", ")
	h.handle(path, func(x *exchange) (*answer, error) {
		return nil, &refusal{
			header: http.Header{"Allow": {allow}},
			err: &amieusage.Error{
				Code:    amieusage.CodeMethodNotAllowed,
				Message: "the method " + strconv.Quote(cut(x.Method, 32)) + " is not allowed here, only " + allow,
				Hint:    hint,
			},
		}
	})
}

func (h *Handler) handle(pattern string, e endpoint) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, e) })
}

func notFound(x *exchange) (*answer, error) {
	return nil, &amieusage.Error{
		Code:    amieusage.CodeNotFound,
		Message: "there is nothing at " + strconv.Quote(cut(x.URL.Path, 128)),
		Hint: "the base URL of the Usage API ends in " + Prefix +
			"; below it are usage, usage/failed, usage/failed/{ids}, usage/status, usage/loaded and usage/summary",
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
