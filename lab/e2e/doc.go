// Package e2e holds the stories: what a user sees, told in txtar and run by the real binaries in a real lab.
//
// TestStories runs testdata/stories, TestKarpenter those in testdata/karpenter, TestVPA those in testdata/vpa, TestScenarios the long ones in
// testdata/scenarios; each in one lab that is started for it and removed afterwards, and TestKarpenter in a second one at the same
// time, for what needs no agent (NN-…-by-hand). With NOPSCTL_LAB=NAME they use a lab that is up already and leave it up.
//
// A story may use, besides the commands of testscript:
//
//	nopsctl ARG…              bin/nopsctl inside the lab, where the real host names lead to the lab
//	kubectl ARG…, helm ARG…, helm4 ARG…     the lab's own, inside
//	lab ARG…                  bin/lab, for this lab
//	exit CODE COMMAND…        the command ends with exactly this exit code
//	eventually TIME COMMAND…  repeats the command until it succeeds, or fails after TIME
//	eventually-match TIME REGEXP COMMAND…   repeats it until its standard output matches
//	interrupt REGEXP COMMAND… sends SIGINT once the command's output matches, and waits for its end
//	query PROMQL              asks the metrics store; one line per series: value and labels
//	samples-match-pods METRIC UIDLABEL      the containers in fresh samples of the metric are those that run, both ways
//	api KEY METHOD PATH       asks the platform with that key: "status body"
//	scan-canary               no credential of this lab in any log, event, object, value, argument or release Secret
//	! scan-canary PLACE…      one is found in each of these places: the story has planted it there
//	published TOOL FILE ARG…  a command of the published page, as it stands there, by helm, helm4 or nopsctl; what the page
//	                          leaves out (keys, workspace, cluster) is filled in, ARG is added at its end
//	secret-as-published FILE  writes the published Secret with this customer's keys, and amp.yaml with the workspace
//	published-2024 FILE       writes values as customers of 2024 have them, and amp.yaml with what moving to AMP adds
//	workloads COMPONENT…      waits until exactly these components have workloads, and all run; "as-published NAME" are those
//	                          that the page promises for a command
//	upgraded                  the release of the chart of 2024 is one of ours: nothing twice, nothing left, selectors kept
//	writes-nothing CODE COMMAND…            the command ends with this exit code, and the API server's log of writes holds none of it
//	! writes-nothing CODE COMMAND…          it holds some: the log would tell
//	forge KIND IMAGE TAG      lab image forge, for as long as the story lasts
//	pinned AT_LEAST           every container is declared by the digest that is locked, and runs it; at least so many
//	empty-cluster             nothing of the stack is left, in any kind; negated, what is left is printed
//
// A story about Karpenter, where every number of nodes is of NodeClaims that are ready, with none of the pool coming or going:
//
//	karpenter on [GATES]      the real controller, its API, nodes that do not exist; GATES as NodeOverlay=true. On again: started
//	                          anew with other gates, its objects stay, what the commands below have seen is forgotten
//	karpenter off             all of it is gone again; so it is after the story
//	nodes-of POOL N within TIME             waits until the pool has exactly so many nodes
//	nodes-stay POOL N for TIME              it has so many all the time
//	drifted POOL N within TIME              waits until exactly so many of its nodes carry Karpenter's mark Drifted
//	at-most N deleting POOL   no more of its nodes were ever being deleted at once, since Karpenter was turned on
//	launched POOL N [within TIME]           so many nodes it has had, those that are gone included, since then; with a time it waits for them
//	sibling VARIABLE within TIME            waits until exactly one NodePool of karpenops launches nodes; the variable is its name
//	timeline                  prints each node since then, one JSON object a line: karpenter.Node of lab/karpenter
//
// A story about containers that are rightsized, whose workloads run public.ecr.aws/lab/load:1 and whose namespaces carry the label
// lab.nopsctl.local/story:
//
//	requests NAMESPACE SELECTOR cpu|memory LEAST MOST within TIME   waits until every pod's first container requests that, by its
//	                          specification, by what its node says, and by what its own cgroup says
//	remember-pods NAME NAMESPACE SELECTOR   keeps which pods there are, and which containers run in them
//	same-pods NAME NAMESPACE SELECTOR       they are the same, and none of their containers was started anew
//	upstream-vpa on|off [FLAG…]             the VPA of Kubernetes, unchanged; after the story it is off
//	asked SINCE USER REQUEST N              by the API server's log, users that match made so many requests that match, as
//	                          "VERB GROUP/RESOURCE[/SUBRESOURCE] NAMESPACE/NAME"; negated: none
//	mutated SINCE WEBHOOK NAMESPACE N|all   so many of the pods created there were changed by that webhook; negated: none
//	failed-open SINCE WEBHOOK NAMESPACE N|all      so many were created without that webhook, by the name that it has in its configuration,
//	                          for it did not answer; negated: none
//	took SINCE NAMESPACE LEAST MOST         the API server took between these to create each pod there
//	churn NAMESPACE SELECTOR TIME           deletes the pods twice a second, so that others come
package e2e
