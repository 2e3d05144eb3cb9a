//! The workspace's members as `cargo metadata` tells of them, cut down to what the checks ask.
//!
//! Must never judge; that is what the checks are for. The invariant: a dependency listed here is one of a member's own.

use crate::Problem;
use crate::cargo::Cargo;
use serde_json::Value;
use std::collections::BTreeMap;

/// When a dependency is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

/// A member's dependency, ours or not.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) features: Vec<String>,
}

/// One crate of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    /// What each feature turns on.
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

/// Every member of the workspace.
pub(crate) fn members(cargo: &Cargo) -> Result<Vec<Member>, Problem> {
    parse(&cargo.read(&["metadata", "--format-version", "1", "--no-deps", "--locked"])?)
}

/// Reads the JSON of `cargo metadata --no-deps`.
pub(crate) fn parse(json: &str) -> Result<Vec<Member>, Problem> {
    let metadata: Value = serde_json::from_str(json).map_err(|e| format!("cargo metadata is not JSON: {e}"))?;
    let members: Vec<Member> = list(&metadata["packages"]).map(member).collect();
    if members.is_empty() { Err("cargo metadata names no package".to_owned()) } else { Ok(members) }
}

fn member(package: &Value) -> Member {
    let features = package["features"].as_object().into_iter().flatten();
    Member {
        name: text(&package["name"]),
        dependencies: list(&package["dependencies"]).map(dependency).collect(),
        features: features.map(|(name, on)| (name.clone(), list(on).map(text).collect())).collect(),
    }
}

fn dependency(value: &Value) -> Dependency {
    let kind = match value["kind"].as_str() {
        Some("dev") => Kind::Dev,
        Some("build") => Kind::Build,
        _ => Kind::Normal,
    };
    Dependency { name: text(&value["name"]), kind, features: list(&value["features"]).map(text).collect() }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kinds_and_features_are_read() {
        let json = r#"{"packages": [{"name": "a", "features": {"default": ["x"], "x": []}, "dependencies": [
            {"name": "b", "kind": null, "features": ["f"]}, {"name": "c", "kind": "dev", "features": []},
            {"name": "d", "kind": "build", "features": []}]}]}"#;
        let members = parse(json).unwrap();
        let kinds: Vec<(&str, Kind)> = members[0].dependencies.iter().map(|d| (d.name.as_str(), d.kind)).collect();
        assert_eq!(kinds, [("b", Kind::Normal), ("c", Kind::Dev), ("d", Kind::Build)]);
        assert_eq!(members[0].features["default"], ["x"]);
        assert_eq!(members[0].dependencies[0].features, ["f"]);
    }

    #[test]
    fn metadata_without_packages_is_an_error_and_not_a_clean_workspace() {
        assert!(parse("{}").is_err());
        assert!(parse("no JSON").is_err());
    }
}
