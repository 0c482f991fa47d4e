package main

import (
	"fmt"
	"math"
	"strings"
)

// A series is a line of a panel. Its class says which policy it is of: colours and dashes are in the style, in two versions.
type series struct {
	class, name string
	values      []float64
}

type panel struct {
	title string
	unit  string
	lines []series
}

// plotStyle: four colours that the colour-blind tell apart, each with a dash of its own, for those who see or print none.
const plotStyle = `<style>
  svg { --ink: #1f2328; --grid: #d1d9e0; --paper: #ffffff; --a: #59636e; --b: #b35900; --c: #0550ae; --d: #116329; --lease: #8250df }
  @media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --grid: #30363d; --paper: #0d1117; --a: #9198a1; --b: #f0883e; --c: #58a6ff; --d: #56d364; --lease: #d2a8ff } }
  text { fill: var(--ink); font: 12px system-ui, sans-serif } .title { font-weight: 600; font-size: 13px }
  .paper { fill: var(--paper) } .grid { stroke: var(--grid) } .line { fill: none; stroke-width: 2 }
  .a { stroke: var(--a); stroke-dasharray: 2 3 } .b { stroke: var(--b); stroke-dasharray: 8 3 } .c { stroke: var(--c) } .d { stroke: var(--d); stroke-dasharray: 12 3 2 3 } .lease { stroke: var(--lease); stroke-dasharray: 1 2 }
</style>`

const (
	plotWidth, panelHeight = 900, 190
	plotLeft, plotRight    = 62, 14
	plotTop, plotBottom    = 34, 24
)

// plot draws panels under each other, over the same days.
func plot(title string, panels []panel) string {
	var b strings.Builder
	legend := 26
	height := legend + len(panels)*panelHeight
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"%s\">\n%s\n<rect class=\"paper\" width=\"100%%\" height=\"100%%\"/>\n", plotWidth, height, plotWidth, height, title, plotStyle)
	x := plotLeft
	seen := map[string]bool{}
	for _, p := range panels {
		for _, s := range p.lines {
			if seen[s.class] {
				continue
			}
			seen[s.class] = true
			fmt.Fprintf(&b, "<path class=\"line %s\" d=\"M%d 14h26\"/><text x=\"%d\" y=\"18\">%s</text>\n", s.class, x, x+32, s.name)
			x += 42 + 6*len(s.name)
		}
	}
	for i, p := range panels {
		p.draw(&b, legend+i*panelHeight)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder, top int) {
	most, days := 0.0, 0
	for _, s := range p.lines {
		days = max(days, len(s.values))
		for _, v := range s.values {
			most = max(most, v)
		}
	}
	stride := nice(most / 4)
	most = max(stride*math.Ceil(most/stride), stride)
	inner, width := float64(panelHeight-plotTop-plotBottom), float64(plotWidth-plotLeft-plotRight)
	y := func(v float64) float64 { return float64(top+plotTop) + inner*(1-v/most) }
	x := func(i int) float64 { return plotLeft + width*(float64(i)+0.5)/float64(max(days, 1)) }
	fmt.Fprintf(b, "<text class=\"title\" x=\"%d\" y=\"%d\">%s</text>\n", plotLeft, top+18, p.title)
	for v := 0.0; v <= most+stride/2; v += stride {
		fmt.Fprintf(b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s%s</text>\n", plotLeft, y(v), plotWidth-plotRight, plotLeft-6, y(v)+4, p.unit, number(v))
	}
	for i := 0; i < days; i++ {
		if i%5 == 0 || i == days-1 {
			fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x(i), top+panelHeight-6, i+1)
		}
	}
	for _, s := range p.lines {
		var d strings.Builder
		for i, v := range s.values {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], x(i), y(v))
		}
		fmt.Fprintf(b, "<path class=\"line %s\" d=\"%s\"><title>%s</title></path>\n", s.class, d.String(), s.name)
	}
}

func number(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") }

// nice is a step that people count in.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 2.5, 5, 10} {
		if v <= step*power {
			return step * power
		}
	}
	return 10 * power
}
