package bench

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/nomad/api"

	"pangaea/e2e/devpool"
	"pangaea/e2e/node"
)

// poolSleepers is how many tasks stand idle while memory is measured beside a whole pool.
const poolSleepers = 20

// Pool measures StartTask beside Nomad's exec driver, what the pool adds to a job's way, and memory per task.
func Pool(ctx context.Context, pool *devpool.Pool, out io.Writer) (report Report, err error) {
	member := pool.Clusters[0]
	n := &site{out: out, processes: func() ([]node.Process, error) { return naming(pool.Tools.Bin) }}
	n.image, err = offer(ctx, pool.Registry)
	if err != nil {
		return report, err
	}
	n.log, err = openLog(filepath.Join(pool.Dir, "logs", member.Alias+"-client.log"))
	if err != nil {
		return report, err
	}
	n.api, err = member.API()
	if err != nil {
		return report, err
	}
	through := *n
	through.api, err = pool.API()
	if err != nil {
		return report, err
	}
	report.Rows, err = n.measure(ctx, []step{
		n.inTurns([]driver{ours(), nomads()[0]}, n.startTask, Row{
			What: "StartTask, cached image, full sandbox", Unit: "ms", Promises: []Promise{{Limit: 0.4, Of: "exec"}},
		}),
		n.jobsWay(member.Alias, &through),
		{"memory", n.poolMemory},
	})
	return report, err
}

// jobsWay compares a job sent through the gateway with the same job sent straight to the member that runs it: from the
// submission to the task's Started event.
func (n *site) jobsWay(member string, gateway *site) step {
	row := Row{What: "job submission until its task runs", Unit: "ms", Promises: []Promise{{Limit: 1.5, Of: "direct"}}}
	sides := []struct {
		name string
		site *site
	}{{"gateway", gateway}, {"direct", n}}
	return step{row.What, func(ctx context.Context) ([]Row, error) {
		fmt.Fprintf(n.out, "==> %s\n", row.What)
		for round := range rounds + 1 {
			for _, side := range sides {
				took, err := side.site.untilStarted(ctx, fmt.Sprintf("run-%s-%d", side.name, round), member)
				if err != nil {
					return nil, err
				}
				if round > 0 {
					row.add(side.name, took)
				}
			}
		}
		return []Row{row}, nil
	}}
}

func (n *site) untilStarted(ctx context.Context, id, member string) (float64, error) {
	job := n.job(id, ours(), 1, "true").Constrain(api.NewConstraint("${meta.pool.member}", "=", member))
	began := time.Now()
	err := n.submit(job)
	if err != nil {
		return 0, err
	}
	stubs, err := n.complete(ctx, id)
	if err != nil {
		return 0, err
	}
	started, err := eventTime(stubs[0], api.TaskStarted)
	return milliseconds(started.Sub(began)), err
}

func (n *site) poolMemory(ctx context.Context) ([]Row, error) {
	row := Row{What: fmt.Sprintf("host memory per idle task, PSS of helpers, %d tasks", poolSleepers), Unit: "MiB", Promises: []Promise{{Limit: 6}}}
	err := n.withIdle(ctx, ours(), poolSleepers, func() error {
		kib, err := n.helperPSS(ours())
		row.add("runc", float64(kib)/1024/poolSleepers)
		return err
	})
	return []Row{row}, err
}
