package holder

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestTasks(t *testing.T) {
	d := Dir(t.TempDir())
	all, err := (d + "/none").Tasks()
	must.NoError(t, err)
	must.SliceEmpty(t, all)
	write := func(name, text string) {
		must.NoError(t, os.WriteFile(filepath.Join(string(d), name), []byte(text), 0o600))
	}
	alive := t.TempDir()
	write("lock", "")
	write("a.json~", "{half")
	write("a.json", fmt.Sprintf(`{"devices":["GPU-a::1","GPU-b"],"uuids":["GPU-a","GPU-b"],"namespace":"team","job_id":"model","alloc_id":"1","task":"t","task_dir":%q}`, alive))
	write("gone.json", fmt.Sprintf(`{"devices":["GPU-c"],"alloc_id":"2","task":"t","task_dir":%q}`, alive+"/gone"))
	all, err = d.Tasks()
	must.NoError(t, err)
	want := Task{AllocID: "1", Task: "t", Namespace: "team", JobID: "model", Devices: []string{"GPU-a::1", "GPU-b"}, TaskDir: alive}
	must.Eq(t, []Task{want}, all)
	for device, has := range map[string]bool{"GPU-a::1": true, "GPU-b": true, "GPU-a": false, "GPU-a::0": false, "GPU-c": false} {
		_, ok := Of(all, device)
		must.Eq(t, has, ok, must.Sprint(device))
	}
	write("b.json", "{half")
	all, err = d.Tasks()
	must.ErrorContains(t, err, "cannot read who has a GPU")
	must.Eq(t, []Task{want}, all)
}
