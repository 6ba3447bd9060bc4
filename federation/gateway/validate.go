package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/hashicorp/go-multierror"
	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
	"pangaea/federation/scheduler"
	"pangaea/federation/state"
)

// check finds every mistake in a job that can be found without a member: with Nomad's own validation, and in the
// pool's own words.
func check(spec *api.Job) (warnings string, errs []error) {
	job, err := toStructs(spec)
	if err != nil {
		return "", []error{err}
	}
	job.Canonicalize()
	err = job.Validate()
	var many *multierror.Error
	if errors.As(err, &many) {
		errs = many.Errors
	} else if err != nil {
		errs = []error{err}
	}
	if err := job.Warnings(); err != nil {
		warnings = err.Error()
	}
	return warnings, append(errs, checkPool(spec)...)
}

func checkPool(spec *api.Job) []error {
	var errs []error
	if !state.ValidNamespace(deref(spec.Namespace)) {
		errs = append(errs, fmt.Errorf("namespace %q cannot be a namespace: use letters, digits and dashes", deref(spec.Namespace)))
	}
	if spec.IsPeriodic() {
		errs = append(errs, errors.New("the pool does not run periodic jobs yet: run them on one member's own Nomad"))
	}
	errs = append(errs, checkMeta("job", spec.Meta)...)
	for _, tg := range spec.TaskGroups {
		errs = append(errs, checkMeta("group "+deref(tg.Name), tg.Meta)...)
	}
	return errs
}

// checkMeta refuses misspelt values: a gang that quietly is none would be worse than an error.
func checkMeta(where string, meta map[string]string) []error {
	var errs []error
	for key, words := range map[string][]string{pool.MetaGang: {"true", "false"}, pool.MetaColocate: {"member", "country", "continent"}} {
		if v, ok := meta[key]; ok && !slices.Contains(words, v) {
			errs = append(errs, fmt.Errorf("%s: meta %s is %q: use one of %q", where, key, v, words))
		}
	}
	if v, ok := meta[pool.MetaMaxPrice]; ok {
		price, err := strconv.ParseFloat(v, 64)
		if err != nil || !(price >= 0) {
			errs = append(errs, fmt.Errorf("%s: meta %s is %q: use a number such as \"1.50\"", where, pool.MetaMaxPrice, v))
		}
	}
	for _, key := range []string{pool.MetaPlacement, pool.MetaEpoch, pool.MetaNamespace} {
		if _, ok := meta[key]; ok {
			errs = append(errs, fmt.Errorf("%s: meta %s is the pool's own: remove it", where, key))
		}
	}
	return errs
}

func (g *Gateway) validateJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.JobValidateRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	spec, err := g.prepareToShow(c, request.Job)
	if err != nil {
		return nil, err
	}
	warnings, errs := check(spec)
	out := api.JobValidateResponse{DriverConfigValidated: true, Warnings: warnings}
	if len(errs) > 0 {
		out.Error = (&multierror.Error{Errors: errs}).Error()
		for _, err := range errs {
			out.ValidationErrors = append(out.ValidationErrors, err.Error())
		}
	}
	return out, nil
}

// prepare gives a submitted job its namespace and region and fills in Nomad's defaults.
func (g *Gateway) prepare(c *call, spec *api.Job) (*api.Job, error) {
	if spec == nil || deref(spec.ID) == "" {
		return nil, fail(http.StatusBadRequest, "Job must be specified")
	}
	err := state.Whole(spec) // before Nomad's code sees it
	if err != nil {
		return nil, err
	}
	if deref(spec.Namespace) == "" {
		spec.Namespace = ptr(or(c.URL.Query().Get("namespace"), "default"))
	}
	if *spec.Namespace == "*" {
		return nil, fail(http.StatusBadRequest, "namespace \"*\" is for lists: name the job's namespace")
	}
	if c.region != "" {
		spec.Region = ptr(c.region)
	}
	if region := deref(spec.Region); !scheduler.Anywhere(region) && c.region == "" {
		g.mu.Lock()
		known := g.members[region] != nil
		g.mu.Unlock()
		if !known {
			return nil, fail(http.StatusBadRequest, "no member of the pool is called %q: use a member's alias as region, or none", region)
		}
	}
	if len(spec.Payload) > 0 {
		return nil, fail(http.StatusBadRequest, "job can't be submitted with a payload, only dispatched")
	}
	// Only a dispatch makes these.
	spec.ParentID, spec.Dispatched, spec.DispatchIdempotencyToken = ptr(""), false, nil
	spec.Canonicalize()
	return spec, nil
}

// prepareToShow prepares a job for a caller who only asks about it, and so must be able to read its namespace.
func (g *Gateway) prepareToShow(c *call, job *api.Job) (*api.Job, error) {
	spec, err := g.prepare(c, job)
	if err != nil {
		return nil, err
	}
	return spec, g.canRead(c, *spec.Namespace)
}

func (g *Gateway) planJob(_ http.ResponseWriter, c *call) (any, error) {
	var request api.JobPlanRequest
	err := decode(c, &request)
	if err != nil {
		return nil, err
	}
	spec, err := g.prepareToShow(c, request.Job)
	if err != nil {
		return nil, err
	}
	warnings, errs := check(spec)
	if len(errs) > 0 {
		return nil, fail(http.StatusBadRequest, "%s", (&multierror.Error{Errors: errs}).Error())
	}
	out, err := g.plan(spec, request.Diff)
	if err != nil {
		return nil, err
	}
	out.Warnings = warnings
	return out, nil
}
