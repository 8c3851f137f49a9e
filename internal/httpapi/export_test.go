package httpapi

// Routes returns the method and the path of all that is served.
func (h *Handler) Routes() []string {
	var routes []string
	for _, r := range h.table() {
		for method := range r.methods {
			routes = append(routes, method+" "+r.path)
		}
	}
	return routes
}

// Wasted tells whether a send of size bytes keeps its place for a while.
var Wasted = wasted
