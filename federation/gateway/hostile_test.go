package gateway

import (
	"net/http"
	"testing"

	"github.com/shoenig/test/must"
)

// TestNulls checks that every endpoint that takes a job answers one with a null in it.
func TestNulls(t *testing.T) {
	p := newPool(t, france())
	for _, path := range []string{"/v1/jobs", "/v1/validate/job", "/v1/job/a/plan"} {
		for _, body := range []string{
			`null`, `{}`, `{"Job":null}`, `{"Job":{"ID":"a","TaskGroups":[null]}}`, `{"Job":{"ID":"a","TaskGroups":[{"Tasks":[null]}]}}`,
			`{"Job":{"ID":"a","TaskGroups":[{"Networks":[null]}]}}`, `{"Job":{"ID":"a","TaskGroups":[{"Volumes":{"v":null}}]}}`,
			`{"Job":{"ID":"a","TaskGroups":[{"Tasks":[{"Templates":[null]}]}]}}`, `{"Job":{"ID":"a","Multiregion":{"Regions":[null]}}}`,
		} {
			status, text, _ := p.do("PUT", path, "", body)
			must.Eq(t, http.StatusBadRequest, status, must.Sprint(path, body, text))
		}
	}
}
