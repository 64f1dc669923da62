// Whether the Prometheus operator's own types take what is on standard input: a field that they don't know is an error.
//
// Its definitions are not part of a cluster for tests, and their schemas are served by no registry; the types that they
// are generated from are.
package main

import (
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(from io.Reader) error {
	document, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	var known struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &known); err != nil {
		return err
	}
	kinds := map[string]any{
		"PodMonitor":     &monitoring.PodMonitor{},
		"ServiceMonitor": &monitoring.ServiceMonitor{},
		"PrometheusRule": &monitoring.PrometheusRule{},
	}
	into, found := kinds[known.Kind]
	if !found {
		return fmt.Errorf("%q is no kind that is looked at here", known.Kind)
	}
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		return fmt.Errorf("%s: %w", known.Kind, err)
	}
	return nil
}
