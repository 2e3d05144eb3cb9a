//! Which steps have ended when a `for_each` begins that takes the list of one.
//!
//! It must never know more of a step than its name. The invariant: what may have ended counts as ended.

use super::common;
use crate::file::syntax::Node;

/// A `for_each` among these that names a step which cannot have ended, by its path, with that name.
pub(super) fn too_early(nodes: &[Node]) -> Vec<(Vec<String>, &str)> {
    let mut walk = Walk { path: Vec::new(), ended: Vec::new(), found: Vec::new() };
    walk.one_by_one(nodes);
    walk.found
}

struct Walk<'n> {
    path: Vec<String>,
    /// What may have ended.
    ended: Vec<&'n str>,
    found: Vec<(Vec<String>, &'n str)>,
}

impl<'n> Walk<'n> {
    fn one_by_one(&mut self, nodes: &'n [Node]) {
        self.each(nodes, |walk, node| walk.node(node));
    }

    /// None ends before another.
    fn side_by_side(&mut self, nodes: &'n [Node]) {
        let before = self.ended.len();
        let mut ended = Vec::new();
        self.each(nodes, |walk, node| {
            walk.node(node);
            ended.extend(walk.ended.drain(before..));
        });
        self.ended.extend(ended);
    }

    /// Any may end before any other: in whatever order they are chosen, or in an iteration before.
    fn in_any_order(&mut self, nodes: &'n [Node]) {
        names(nodes, &mut self.ended);
        let all = self.ended.len();
        self.each(nodes, |walk, node| {
            walk.node(node);
            walk.ended.truncate(all);
        });
    }

    fn each(&mut self, nodes: &'n [Node], mut look: impl FnMut(&mut Self, &'n Node)) {
        for (place, node) in nodes.iter().enumerate() {
            self.path.push(place.to_string());
            look(self, node);
            self.path.pop();
        }
    }

    fn under(&mut self, key: &str, look: impl FnOnce(&mut Self)) {
        self.path.push(key.to_owned());
        look(self);
        self.path.pop();
    }

    fn node(&mut self, node: &'n Node) {
        match node {
            Node::Step(_) => {}
            Node::Sequence(said) => self.under("steps", |walk| walk.one_by_one(&said.steps)),
            Node::Parallel(said) => self.under("steps", |walk| walk.side_by_side(&said.steps)),
            Node::Loop(said) => self.under("steps", |walk| walk.in_any_order(&said.steps)),
            Node::Router(said) => self.under("choices", |walk| walk.in_any_order(&said.choices)),
            Node::Condition(said) => {
                let before = self.ended.len();
                self.under("then", |walk| walk.one_by_one(&said.then));
                let then = self.ended.split_off(before);
                self.under("else", |walk| walk.one_by_one(&said.otherwise));
                self.ended.extend(then);
            }
            Node::ForEach(said) => {
                if let Some(step) = said.items_of.as_deref().filter(|step| !self.ended.contains(step)) {
                    self.found.push((self.path.clone(), step));
                }
                self.under("steps", |walk| walk.one_by_one(&said.steps));
            }
        }
        self.ended.push(common(node).name);
    }
}

/// The names of these and of all inside them.
fn names<'n>(nodes: &'n [Node], into: &mut Vec<&'n str>) {
    for node in nodes {
        into.push(common(node).name);
        let (inside, others): (&[Node], &[Node]) = match node {
            Node::Step(_) => (&[], &[]),
            Node::Sequence(said) => (&said.steps, &[]),
            Node::Parallel(said) => (&said.steps, &[]),
            Node::Loop(said) => (&said.steps, &[]),
            Node::Router(said) => (&said.choices, &[]),
            Node::Condition(said) => (&said.then, &said.otherwise),
            Node::ForEach(said) => (&said.steps, &[]),
        };
        names(inside, into);
        names(others, into);
    }
}
