package state

import (
	"fmt"
	"reflect"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// Whole returns an error that names the first null in a job's lists and maps of objects, such as a group that is null.
// JSON allows them, nobody means them, and Nomad's own code panics on them.
func Whole(job *api.Job) error {
	return whole(reflect.ValueOf(job), "job")
}

func whole(value reflect.Value, path string) error {
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			return whole(value.Elem(), path)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			err := whole(value.Field(i), path+"."+value.Type().Field(i).Name)
			if err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range value.Len() {
			err := wholeItem(value.Index(i), fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			err := wholeItem(value.MapIndex(key), fmt.Sprintf("%s[%.100v]", path, key))
			if err != nil {
				return err
			}
		}
	}
	return nil // a driver's configuration is free JSON: what lies behind an interface is not looked at
}

func wholeItem(item reflect.Value, path string) error {
	if item.Kind() == reflect.Pointer && item.IsNil() {
		return fmt.Errorf("%w: %s is null: remove it", ErrInvalid, path)
	}
	return whole(item, path)
}

// trust checks a record that was read from Consul. Users write there with tokens of their own, past the gateway if they
// like: what lies under one namespace's key must not be a job of another's, nor stop the gateway that reads it.
func trust(entry Entry[pool.JobRecord]) error {
	namespace, id := nameOf(&entry.Value)
	key, err := jobKey(pool.KeyJobs, namespace, id)
	if err != nil {
		return err
	}
	if key != entry.Key {
		return fmt.Errorf("%w: the key %s holds a job that belongs to %s", ErrInvalid, entry.Key, key)
	}
	for _, version := range entry.Value.Versions {
		err = Whole(version)
		if err != nil || version == nil {
			return fmt.Errorf("%w: an earlier version of the job is broken", ErrInvalid)
		}
	}
	return Whole(entry.Value.Job)
}
