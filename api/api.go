// Package api holds the description of the Usage API, as the service serves
// it.
package api

import _ "embed"

// OpenAPI is the description in the terms of OpenAPI 3.1, as YAML
// (GET {base}/openapi.yaml).
//
//go:embed openapi.yaml
var OpenAPI []byte
