//! A workflow as a picture: an outline, a Mermaid flow chart, an SVG.
//!
//! It knows the tree alone. The invariant: names are data, so none can break out of a picture.

use outlive::core::{Definition, Node, Rule, StepNode};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What works in each step, in a word, by where the step is in memory.
struct Words(BTreeMap<*const StepNode, &'static str>);

impl Words {
    fn of(definition: &Definition) -> Self {
        let steps = definition.steps().into_iter();
        Self(steps.map(|(step, executor)| (std::ptr::from_ref(step), executor.word())).collect())
    }

    fn worker(&self, step: &StepNode) -> String {
        let word = self.0.get(&std::ptr::from_ref(step)).copied().unwrap_or(step.executor_type.as_str());
        match *step.executor_name == *step.name {
            true => word.to_owned(),
            false => format!("{word} {}", step.executor_name),
        }
    }
}

/// A node as a picture shows it: what it is, what decides, and the sequences inside.
struct Shown<'a> {
    title: String,
    inside: Vec<(String, &'a [Node])>,
    /// Whether the sequences stand side by side.
    is_wide: bool,
    /// What it does again.
    repeats: Option<String>,
}

fn shown<'a>(node: &'a Node, words: &Words) -> Shown<'a> {
    let name = node.name();
    let review = node.review().map_or("", |_| " (asks a person)");
    let rule = |rule: Option<&Rule>| match rule {
        Some(Rule::Cel(text)) => text.to_string(),
        Some(Rule::Function(name)) => format!("function {name}"),
        Some(Rule::Output(step)) => format!("output of {step}"),
        Some(Rule::Always(verdict)) => verdict.to_string(),
        None => "a person".to_owned(),
    };
    let (title, inside, is_wide, repeats) = match node {
        Node::Step(step) => (format!("{name}: {}", words.worker(step)), Vec::new(), false, None),
        Node::Steps(inner) => (name.to_string(), vec![(String::new(), &inner.steps[..])], false, None),
        Node::Parallel(inner) => {
            let branches = inner.steps.iter().map(|step| (String::new(), std::slice::from_ref(step)));
            (format!("{name}: at the same time"), branches.collect(), true, None)
        }
        Node::Loop(inner) => {
            let until = inner.until.as_ref().map(|until| format!(", until {}", rule(Some(until)))).unwrap_or_default();
            let times = format!("up to {} times{until}", inner.max_iterations);
            (format!("{name}: {times}"), vec![(String::new(), &inner.steps[..])], false, Some("again".to_owned()))
        }
        Node::Condition(inner) => {
            let branches = vec![("yes".to_owned(), &inner.steps[..]), ("no".to_owned(), &inner.else_steps[..])];
            (format!("{name}: {}", rule(Some(&inner.when))), branches, true, None)
        }
        Node::Router(inner) => {
            let choice = |choice| (String::new(), std::slice::from_ref(choice));
            let choices = inner.choices.iter().map(choice).collect();
            (format!("{name}: chosen by {}", rule(inner.select.as_ref())), choices, true, None)
        }
        Node::ForEach(inner) => {
            let each = format!("{name}: for each of {}", rule(Some(&inner.items)));
            (each, vec![(String::new(), &inner.steps[..])], false, Some("next".to_owned()))
        }
        Node::Workflow(inner) => {
            (format!("{name}: workflow {}", inner.workflow_name), vec![(String::new(), &inner.steps[..])], false, None)
        }
    };
    Shown { title: format!("{title}{review}"), inside, is_wide, repeats }
}

/// As indented lines.
pub(crate) fn outline(definition: &Definition) -> String {
    let mut text = format!("{} ({})\n", definition.name, definition.id.as_str());
    if let Some(about) = &definition.description {
        let _ = writeln!(text, "{about}");
    }
    if let Some(leader) = leader(definition) {
        let _ = writeln!(text, "{leader}");
    }
    outline_of(&definition.nodes, 1, &Words::of(definition), &mut text);
    text
}

/// Who leads, if somebody does.
fn leader(definition: &Definition) -> Option<String> {
    match definition.leader.as_deref() {
        Some(Node::Step(leader)) => Some(format!("led by {}", leader.executor_name)),
        _ => None,
    }
}

fn outline_of(nodes: &[Node], depth: usize, words: &Words, text: &mut String) {
    for node in nodes {
        let Shown { title, inside, .. } = shown(node, words);
        let _ = writeln!(text, "{}- {}", "  ".repeat(depth), one_line(&title));
        for (label, nodes) in inside {
            let is_labelled = !label.is_empty() && !nodes.is_empty();
            if is_labelled {
                let _ = writeln!(text, "{}{label}:", "  ".repeat(depth + 1));
            }
            outline_of(nodes, depth + 1 + usize::from(is_labelled), words, text);
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As a Mermaid flow chart.
pub(crate) fn mermaid(definition: &Definition) -> String {
    let mut chart = Chart { text: "flowchart TD\n".to_owned(), count: 0, words: Words::of(definition) };
    let begin = chart.node(&definition.name, ["([", "])"]);
    let led = leader(definition).map(|title| chart.node(&title, ["{{", "}}"]));
    let mut before = vec![(begin, String::new())];
    if let Some(leader) = led {
        chart.join(before, leader);
        before = vec![(leader, "has the steps executed".to_owned())];
    }
    let mut end = chart.sequence(&definition.nodes, before);
    end.extend(led.map(|leader| (leader, "answers itself".to_owned())));
    let done = chart.node("done", ["([", "])"]);
    chart.join(end, done);
    chart.text
}

/// The ends that lead on, each with what is written at it.
type Ends = Vec<(usize, String)>;

struct Chart {
    text: String,
    count: usize,
    words: Words,
}

impl Chart {
    fn node(&mut self, title: &str, [open, close]: [&str; 2]) -> usize {
        self.count += 1;
        let _ = writeln!(self.text, "  n{}{open}\"{}\"{close}", self.count, for_mermaid(title));
        self.count
    }

    fn join(&mut self, from: Ends, to: usize) {
        for (end, label) in from {
            let label = if label.is_empty() { String::new() } else { format!("|\"{}\"|", for_mermaid(&label)) };
            let _ = writeln!(self.text, "  n{end} -->{label} n{to}");
        }
    }

    fn sequence(&mut self, nodes: &[Node], before: Ends) -> Ends {
        nodes.iter().fold(before, |before, node| self.draw(node, before))
    }

    fn draw(&mut self, node: &Node, before: Ends) -> Ends {
        let Shown { title, inside, is_wide, repeats } = shown(node, &self.words);
        let shape = match node {
            Node::Step(_) => ["[", "]"],
            Node::Condition(_) | Node::Router(_) => ["{", "}"],
            _ => ["[[", "]]"],
        };
        let own = self.node(&title, shape);
        self.join(before, own);
        let mut ends = Ends::new();
        for (label, nodes) in inside {
            ends.extend(self.sequence(nodes, vec![(own, label)]));
        }
        if let Some(again) = repeats {
            for (end, _) in ends.clone() {
                let _ = writeln!(self.text, "  n{end} -.->|\"{again}\"| n{own}");
            }
        }
        if ends.is_empty() && !is_wide { vec![(own, String::new())] } else { ends }
    }
}

fn for_mermaid(text: &str) -> String {
    let escaped = one_line(text).replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('#', "&num;")
}

const ROW: usize = 34;
const GAP: usize = 12;
const CHAR: usize = 7;
const TITLE_MAX: usize = 70;

/// A box and where it is.
struct Placed {
    width: usize,
    height: usize,
    title: String,
    children: Vec<(usize, usize, Placed)>,
}

/// As an SVG of boxes in boxes.
pub(crate) fn svg(definition: &Definition) -> String {
    let leader = leader(definition).map(|title| stacked(title, Vec::new(), false));
    let words = Words::of(definition);
    let children = leader.into_iter().chain(definition.nodes.iter().map(|node| placed(node, &words))).collect();
    let whole = stacked(definition.name.to_string(), children, false);
    let (width, height) = (whole.width + 2 * GAP, whole.height + 2 * GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    draw(&whole, GAP, GAP, 0, &mut text);
    text.push_str("</svg>\n");
    text
}

fn placed(node: &Node, words: &Words) -> Placed {
    let Shown { title, inside, is_wide, .. } = shown(node, words);
    let lanes = inside.into_iter().filter(|(_, nodes)| !nodes.is_empty());
    let children = lanes.map(|(label, nodes)| match (label.is_empty(), nodes) {
        (true, [only]) => placed(only, words),
        _ => stacked(label, nodes.iter().map(|node| placed(node, words)).collect(), false),
    });
    stacked(title, children.collect(), is_wide)
}

fn stacked(title: String, children: Vec<Placed>, is_wide: bool) -> Placed {
    let mut title: String = one_line(&title);
    if title.chars().count() > TITLE_MAX {
        title = title.chars().take(TITLE_MAX).chain(['…']).collect();
    }
    let (mut x, mut y) = (GAP, if title.is_empty() { GAP } else { ROW });
    let (mut width, mut height) = (title.chars().count() * CHAR + 2 * GAP, y);
    let mut all = Vec::new();
    for child in children {
        let (w, h) = (child.width, child.height);
        all.push((x, y, child));
        width = width.max(x + w + GAP);
        height = height.max(y + h + GAP);
        if is_wide { x += w + GAP } else { y += h + GAP }
    }
    Placed { width, height, title, children: all }
}

fn draw(one: &Placed, x: usize, y: usize, depth: usize, text: &mut String) {
    let fill = ["#ffffff", "#f4f6f8", "#e8ecf0"][depth % 3];
    let Placed { width, height, title, children } = one;
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\" stroke=\"#667788\"/>"
    );
    let (left, base) = (x + GAP, y + 21);
    let _ = writeln!(text, "<text x=\"{left}\" y=\"{base}\" fill=\"#112233\">{}</text>", for_xml(title));
    for (dx, dy, child) in children {
        draw(child, x + dx, y + dy, depth + 1, text);
    }
}

fn for_xml(text: &str) -> String {
    let is_allowed = |c: &char| !c.is_control();
    let text: String = text.chars().filter(is_allowed).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
