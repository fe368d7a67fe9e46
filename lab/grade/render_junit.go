package grade

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// The elements and attributes are those of the schema that Jenkins publishes
// (junit-10.xsd of its xunit plugin), which GitLab, GitHub's actions and others
// read as well.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

// junitCase is known by its class and name: GitLab shows only the first of
// several that have both in common. The ID makes it unique.
type junitCase struct {
	Class   string       `xml:"classname,attr"`
	Name    string       `xml:"name,attr"`
	Time    string       `xml:"time,attr"`
	Failure *junitReason `xml:"failure"`
	Skipped *junitReason `xml:"skipped"`
	Output  *junitText   `xml:"system-out"`
}

type junitReason struct {
	Type    string `xml:"type,attr,omitempty"`
	Message string `xml:"message,attr"`
	Text    string `xml:",cdata"`
}

type junitText struct {
	Text string `xml:",cdata"`
}

func (r *Report) writeJUnit(w io.Writer) error {
	all := junitSuites{Name: oneLine(r.Rubric), Time: r.Took.milli()}
	for _, c := range r.chapters() {
		suite := c.junit()
		suite.Timestamp = r.Began.UTC().Format(time.DateOnly + "T" + time.TimeOnly)
		suite.Properties = append(suite.Properties,
			junitProperty{"kstat", r.Version},
			junitProperty{"profile", string(r.Profile)},
			junitProperty{"target", oneLine(r.Target)})
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Suites = append(all.Suites, suite)
	}
	fmt.Fprint(w, xml.Header)
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return nil
}

func (c *chapter) junit() junitSuite {
	suite := junitSuite{
		Name:  c.Name,
		Tests: len(c.Results),
		// The schema has no place for the points of a case.
		Properties: []junitProperty{{"points", points(c.Points) + "/" + points(c.Max)}},
	}
	var took Seconds
	for _, result := range c.Results {
		took += result.Took
		suite.Cases = append(suite.Cases, result.junit(suite.Name))
		score := points(result.Points)
		switch result.Outcome {
		case Failed:
			suite.Failures++
		case ByHand, Skipped:
			suite.Skipped++
			score = "-"
		}
		suite.Properties = append(suite.Properties, junitProperty{"points." + result.ID, score + "/" + points(result.Max)})
	}
	suite.Time = took.milli()
	return suite
}

func (r *Result) junit(class string) junitCase {
	c := junitCase{Class: class, Name: fmt.Sprintf("%s (%s)", r.name(), r.ID), Time: r.Took.milli()}
	var text strings.Builder
	for _, d := range r.details() {
		d.write(&text)
	}
	switch r.Outcome {
	case Failed:
		c.Failure = &junitReason{Type: "failed", Message: r.message(), Text: text.String()}
	case ByHand:
		c.Skipped = &junitReason{Message: "left to a person: " + plural(r.Max, "point")}
	case Skipped:
		c.Skipped = &junitReason{Message: cmp.Or(oneLine(r.Seen), "skipped")}
	case Passed:
		if text.Len() > 0 {
			c.Output = &junitText{text.String()}
		}
	}
	return c
}

// message is a failure in a line.
func (r *Result) message() string {
	expected, seen := oneLine(r.Expected), oneLine(r.Seen)
	if expected == "" || seen == "" {
		return cmp.Or(expected+seen, "failed")
	}
	return fmt.Sprintf("expected: %s; seen: %s", expected, seen)
}
