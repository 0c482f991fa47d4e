// Package contract holds tests only: what the chart gives an agent is what the agent takes, and what the chart permits is
// what the agent says it needs. The two live in different modules and drift apart in silence otherwise.
package contract
