package member

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// tag is what the agent writes into a job that it registers, and reads back after a restart. It lies in a link of the
// job's ui block: Nomad keeps that with the job but, unlike a change of meta, a change of it does not replace running
// allocations, and the epoch changes whenever the pool scales a job.
type tag struct {
	Namespace   string // the pool's
	PlacementID string
	Epoch       uint64
	Offsets     map[string]int // by group: index of the first allocation in the pool's job
	Relays      map[string]int // by gang group: port of the relay
	Stops       map[string]int // by group: stop_on_client_after in milliseconds, as the user asked for it
	Holds       map[string]int // by group that names no such time: lost_after in milliseconds
}

const (
	tagLabel = "pool placement"
	tagBase  = "https://pangaea.invalid/placement/"
)

func (t tag) link() *api.JobUILink {
	query := url.Values{"namespace": {t.Namespace}, "epoch": {strconv.FormatUint(t.Epoch, 10)}}
	for group, offset := range t.Offsets {
		query.Add("offset", strconv.Itoa(offset)+" "+group)
	}
	for group, port := range t.Relays {
		query.Add("relay", strconv.Itoa(port)+" "+group)
	}
	for group, after := range t.Stops {
		query.Add("stop", strconv.Itoa(after)+" "+group)
	}
	for group, after := range t.Holds {
		query.Add("hold", strconv.Itoa(after)+" "+group)
	}
	return &api.JobUILink{Label: tagLabel, URL: tagBase + url.PathEscape(t.PlacementID) + "?" + query.Encode()}
}

// write puts the tag into a job in place of any that it carries: a user cannot forge one.
func (t tag) write(job *api.Job) {
	ui := &api.JobUIConfig{}
	if job.UI != nil {
		ui.Description = job.UI.Description
		for _, link := range job.UI.Links {
			if !isTag(link) {
				ui.Links = append(ui.Links, link)
			}
		}
	}
	ui.Links = append(ui.Links, t.link())
	job.UI = ui
}

func isTag(link *api.JobUILink) bool { return link != nil && strings.HasPrefix(link.URL, tagBase) }

// readTag finds the tag of a job in a pool namespace; without one the job is not a placement.
func readTag(job *api.Job) (tag, error) {
	if job.UI != nil {
		for _, link := range job.UI.Links {
			if isTag(link) {
				return parseTag(link.URL)
			}
		}
	}
	return tag{}, fmt.Errorf("job %q carries no placement", deref(job.ID, ""))
}

func parseTag(text string) (tag, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return tag{}, fmt.Errorf("cannot read the placement in a job: %w", err)
	}
	query := parsed.Query()
	epoch, err := strconv.ParseUint(query.Get("epoch"), 10, 64)
	if err != nil {
		return tag{}, fmt.Errorf("cannot read the placement's epoch in a job: %w", err)
	}
	id := strings.TrimPrefix(parsed.Path, "/placement/")
	return tag{
		Namespace: query.Get("namespace"), PlacementID: id, Epoch: epoch,
		Offsets: parsePairs(query["offset"]), Relays: parsePairs(query["relay"]),
		Stops: parsePairs(query["stop"]), Holds: parsePairs(query["hold"]),
	}, nil
}

func parsePairs(pairs []string) map[string]int {
	values := make(map[string]int, len(pairs))
	for _, pair := range pairs {
		number, group, _ := strings.Cut(pair, " ")
		value, err := strconv.Atoi(number)
		if err == nil {
			values[group] = value
		}
	}
	return values
}

func (t tag) ref(jobID string) pool.PlacementRef {
	return pool.PlacementRef{Namespace: t.Namespace, JobID: jobID, PlacementID: t.PlacementID, Epoch: t.Epoch}
}
