package member

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template/parse"
	"unicode"

	"github.com/hashicorp/nomad/api"
)

// lender names who answers a function of a template, "" for nobody outside the task. Nomad's client renders templates on
// the host and asks its own Consul and Vault, whether or not the job has a block for them: with an anonymous token, which
// often may read.
func lender(function string) string {
	switch function {
	case "caLeaf", "caRoots", "connect", "datacenters", "exportedServices", "importedServices", "key", "keyExists", "keyExistsGet",
		"keyOrDefault", "ls", "node", "nodes", "partitions", "peerings", "safeLs", "safeTree", "service", "services", "tree":
		return "Consul"
	case "pkiCert", "secret", "secrets":
		return "Vault"
	case "env", "envOrDefault", "mustEnv":
		return "its agent's environment"
	}
	return ""
}

// checkReach refuses what would have the host reach for a task what the task itself cannot.
func (p Policy) checkReach(task *api.Task) error {
	if _, set := task.Config["lease"]; set {
		return errors.New("a lease is the agent's own: remove it from the task's config")
	}
	if len(task.Artifacts) > 0 && !p.AllowArtifacts {
		return errors.New("the owner does not download artifacts: put the files into the image, or have the task fetch them")
	}
	exposed := task.Identity != nil && (task.Identity.Env || task.Identity.File)
	if (exposed || len(task.Identities) > 0) && !p.AllowIdentity {
		return errors.New("the owner does not lend identities")
	}
	for _, template := range task.Templates {
		err := p.checkTemplate(task, template)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p Policy) checkSecrets(secrets []*api.Secret) error {
	for _, secret := range secrets {
		err := p.checkSecret(secret)
		if err != nil {
			return fmt.Errorf("secret %q: %w", secret.Name, err)
		}
	}
	return nil
}

// checkSecret refuses secret blocks that reach further than a template may. Nomad's client makes a template of a path and
// a namespace by writing them between quotes, and runs any other provider as a program of the host's, with variables of
// the job's choice.
func (p Policy) checkSecret(secret *api.Secret) error {
	if secret.Provider != "nomad" && secret.Provider != "vault" {
		return fmt.Errorf("the owner's program %q is not run for jobs of the pool", secret.Provider)
	}
	if secret.Provider == "vault" && !p.AllowVault {
		return errors.New("the owner does not lend Vault")
	}
	texts := []string{secret.Path}
	for _, value := range secret.Config {
		texts = append(texts, fmt.Sprint(value))
	}
	for _, text := range texts {
		if strings.ContainsFunc(text, notPlain) {
			return fmt.Errorf("use letters, digits and %s in %q", plainMarks, text)
		}
	}
	return nil
}

const plainMarks = "/-_.~:@"

func notPlain(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(plainMarks, r)
}

func (p Policy) checkTemplate(task *api.Task, template *api.Template) error {
	if p.AllowConsul && p.AllowVault {
		return nil
	}
	if deref(template.SourcePath, "") != "" {
		return errors.New("templates are taken only in the job itself, not from files")
	}
	used, err := functions(task, template)
	if err != nil {
		return fmt.Errorf("cannot read a template: %w", err)
	}
	for _, name := range used {
		who := lender(name)
		if who == "" || who == "Consul" && p.AllowConsul || who == "Vault" && p.AllowVault {
			continue
		}
		return fmt.Errorf("template function %q: the owner does not lend %s", name, who)
	}
	return nil
}

// functions lists what a template calls, in whatever definition. A template's functions have no other names.
func functions(task *api.Task, template *api.Template) ([]string, error) {
	trees := map[string]*parse.Tree{}
	tree := parse.New("template")
	tree.Mode = parse.SkipFuncCheck
	_, err := tree.Parse(deref(template.EmbeddedTmpl, ""), deref(template.LeftDelim, ""), deref(template.RightDelim, ""), trees)
	if err != nil {
		return nil, err
	}
	found := calls{task: task}
	for _, one := range trees {
		found.walk(reflect.ValueOf(one.Root))
	}
	found.walk(reflect.ValueOf(tree.Root))
	return found.names, nil
}

// calls gathers the functions that a task's template calls.
type calls struct {
	task  *api.Task
	names []string
}

// walk collects the functions below a node. Its exported fields are its children.
func (c *calls) walk(value reflect.Value) {
	switch value.Kind() {
	case reflect.Interface, reflect.Pointer:
		if value.IsNil() {
			return
		}
		switch node := value.Interface().(type) {
		case *parse.IdentifierNode:
			c.names = append(c.names, node.Ident)
			return
		case *parse.CommandNode:
			if c.ownVariable(node) {
				return
			}
		}
		c.walk(value.Elem())
	case reflect.Slice:
		for i := range value.Len() {
			c.walk(value.Index(i))
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if value.Type().Field(i).IsExported() {
				c.walk(value.Field(i))
			}
		}
	}
}

// ownVariable tells whether a command reads a variable that Nomad or the job itself sets for the task: for any other
// consul-template looks into its own process, which is the owner's Nomad client with its tokens.
func (c *calls) ownVariable(command *parse.CommandNode) bool {
	if len(command.Args) != 2 {
		return false
	}
	function, ok := command.Args[0].(*parse.IdentifierNode)
	name, isText := command.Args[1].(*parse.StringNode)
	if !ok || !isText || function.Ident != "env" && function.Ident != "mustEnv" {
		return false
	}
	_, set := c.task.Env[name.Text]
	if set {
		return true
	}
	for _, prefix := range []string{"ALLOC_", "TASK_", "GROUP_", "JOB_", "DC", "REGION", "NAMESPACE", "PORT_", "IP_", "ADDR_", "HOST_", "META_", "CPU_", "MEMORY_", "SECRETS_"} {
		if strings.HasPrefix(name.Text, "NOMAD_"+prefix) {
			return true
		}
	}
	return false
}
