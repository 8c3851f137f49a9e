package httpapi

import "github.com/amieusage/amieusage"

// status serves GET usage/status.
func (h *Handler) status(x *exchange) (*answer, error) {
	v, err := x.parameters("FromTime", "ToTime")
	if err != nil {
		return nil, err
	}
	q, err := amieusage.ParseStatusQuery(v)
	if err != nil {
		return nil, err
	}
	status, err := h.service.Status(x.Context(), x.who, q)
	if err != nil {
		return nil, err
	}
	return jsonAnswer(status)
}
