//! The floor plan: which crate may depend on which, downwards only.
//!
//! Must never excuse an edge: one that should exist gets a line in the table and a reason in `ARCHITECTURE.md`. The
//! invariant: a member that is not in the table is a problem too, so a new crate has to choose its floor.

use crate::Problem;
use crate::metadata::{Kind, Member};

/// Each crate of ours with those it may be built with. Tests may also reach sideways, as dev-dependencies.
const FLOORS: &[(&str, &[&str])] = &[
    ("outlive-core", &[]),
    ("outlive-engine", &["outlive-core"]),
    ("outlive-agent", &["outlive-core"]),
    ("outlive-db", &["outlive-core"]),
    ("outlive-server", &["outlive-core", "outlive-engine"]),
    ("outlive", &["outlive-core", "outlive-engine", "outlive-agent", "outlive-db", "outlive-server"]),
    ("outlive-cli", &["outlive"]),
    ("xtask", &[]),
];

/// Edges that are not in the table.
pub(super) fn check(members: &[Member]) -> Vec<Problem> {
    members.iter().flat_map(|member| edges(member, members)).collect()
}

fn edges(member: &Member, members: &[Member]) -> Vec<Problem> {
    let Some((name, allowed)) = FLOORS.iter().find(|(name, _)| *name == member.name) else {
        return vec![format!("{} is on no floor: give it a line in the floor table", member.name)];
    };
    let is_ours = |name: &str| members.iter().any(|member| member.name == name);
    let built_with = member.dependencies.iter().filter(|d| d.kind != Kind::Dev && is_ours(&d.name));
    let forbidden = built_with.filter(|d| !allowed.contains(&d.name.as_str()));
    forbidden.map(|d| format!("{name} depends on {}, which the floor plan forbids", d.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;
    use std::collections::BTreeMap;

    fn house(edges: &[(&str, &str, Kind)]) -> Vec<Member> {
        let mut members: Vec<Member> = ["outlive-core", "outlive-engine", "outlive-agent", "outlive-db", "outlive"]
            .map(|name| Member { name: name.to_owned(), dependencies: Vec::new(), features: BTreeMap::new() })
            .to_vec();
        for (from, to, kind) in edges {
            let from = members.iter_mut().find(|member| member.name == *from).unwrap();
            from.dependencies.push(Dependency { name: (*to).to_owned(), kind: *kind, features: Vec::new() });
        }
        members
    }

    #[test]
    fn an_edge_upwards_is_found_and_both_ends_are_named() {
        let problems = check(&house(&[("outlive-core", "outlive-engine", Kind::Normal)]));
        assert_eq!(problems, ["outlive-core depends on outlive-engine, which the floor plan forbids"]);
    }

    #[test]
    fn an_edge_sideways_is_found() {
        assert_eq!(check(&house(&[("outlive-engine", "outlive-db", Kind::Normal)])).len(), 1);
        assert_eq!(check(&house(&[("outlive-agent", "outlive-engine", Kind::Build)])).len(), 1);
    }

    #[test]
    fn tests_may_reach_sideways() {
        assert!(check(&house(&[("outlive-engine", "outlive-db", Kind::Dev)])).is_empty());
    }

    #[test]
    fn edges_downwards_and_crates_of_others_are_fine() {
        let edges = [("outlive", "outlive-db", Kind::Normal), ("outlive-core", "serde", Kind::Normal)];
        assert!(check(&house(&edges)).is_empty());
    }

    #[test]
    fn a_crate_without_a_floor_is_found() {
        let stray = Member { name: "outlive-utils".to_owned(), dependencies: Vec::new(), features: BTreeMap::new() };
        assert_eq!(check(&[stray]).len(), 1);
    }
}
