//! What the workspace consists of, read from `cargo metadata`.
//!
//! Only members and their direct dependencies are looked at: nothing is resolved and no network is needed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::invocation::Invocation;

/// The workspace and its members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspace {
    /// The folder that holds the workspace manifest.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target_folder: PathBuf,
    /// All members, ordered by name.
    pub(crate) packages: Vec<Package>,
}

/// One member of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    /// The name that cargo knows it by.
    pub(crate) name: String,
    /// Its folder, relative to the workspace root, with forward slashes.
    pub(crate) folder: String,
    /// What it depends on, inside the workspace and outside.
    pub(crate) dependencies: Vec<Dependency>,
    /// What is built from it.
    pub(crate) targets: Vec<Target>,
}

/// One dependency line of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The package depended on.
    pub(crate) name: String,
    /// Whether only tests, examples and benchmarks use it.
    pub(crate) for_tests_only: bool,
}

/// One thing that is built from a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name of the library or program.
    pub(crate) name: String,
    /// Cargo's word for what it is: `lib`, `proc-macro`, `bin`, `example`, `test`, ...
    pub(crate) kind: String,
    /// Its root source file, relative to the workspace root, with forward slashes.
    pub(crate) source: String,
}

impl Workspace {
    /// Asks cargo about the workspace of the current folder.
    ///
    /// # Errors
    /// When cargo cannot be run, or does not answer as expected.
    pub(crate) fn read() -> Result<Self, String> {
        let (success, output) = Invocation::cargo("metadata --no-deps --format-version 1").run_captured()?;
        if !success {
            return Err("`cargo metadata` failed; its message is above".to_owned());
        }
        let value = serde_json::from_slice(&output).map_err(|error| format!("`cargo metadata`: {error}"))?;
        Self::from_metadata(&value).ok_or_else(|| "`cargo metadata` lacks a field we need".to_owned())
    }

    /// The member of that name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    fn from_metadata(value: &Value) -> Option<Self> {
        let root = PathBuf::from(value["workspace_root"].as_str()?);
        let target_folder = PathBuf::from(value["target_directory"].as_str()?);
        let packages = value["packages"].as_array()?;
        let mut packages = packages
            .iter()
            .map(|package| Package::from_metadata(package, &root))
            .collect::<Option<Vec<_>>>()?;
        packages.sort_by(|left, right| left.name.cmp(&right.name));
        Some(Self { root, target_folder, packages })
    }
}

impl Package {
    /// The first target of that kind.
    pub(crate) fn target(&self, kind: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.kind == kind)
    }

    fn from_metadata(value: &Value, root: &Path) -> Option<Self> {
        let manifest = Path::new(value["manifest_path"].as_str()?);
        let dependencies = value["dependencies"].as_array()?.iter().map(Dependency::from_metadata);
        let targets = value["targets"].as_array()?.iter().map(|target| Target::from_metadata(target, root));
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            folder: relative(manifest.parent()?, root),
            dependencies: dependencies.collect::<Option<_>>()?,
            targets: targets.collect::<Option<_>>()?,
        })
    }
}

impl Dependency {
    fn from_metadata(value: &Value) -> Option<Self> {
        let name = value["name"].as_str()?.to_owned();
        Some(Self { name, for_tests_only: value["kind"].as_str() == Some("dev") })
    }
}

impl Target {
    fn from_metadata(value: &Value, root: &Path) -> Option<Self> {
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            kind: value["kind"].get(0)?.as_str()?.to_owned(),
            source: relative(Path::new(value["src_path"].as_str()?), root),
        })
    }
}

/// `path` as seen from `root`, with forward slashes.
pub(crate) fn relative(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_becomes_members_with_relative_paths() {
        let workspace = Workspace::from_metadata(&json!({
            "workspace_root": "/w", "target_directory": "/t",
            "packages": [{
                "name": "pond", "manifest_path": "/w/deep/pond/Cargo.toml",
                "dependencies": [{"name": "frog", "kind": null}, {"name": "net", "kind": "dev"}],
                "targets": [{"name": "pond", "kind": ["lib"], "src_path": "/w/deep/pond/src/lib.rs"}],
            }],
        }))
        .expect("all fields are there");
        let pond = workspace.package("pond").expect("it is a member");
        assert_eq!(pond.folder, "deep/pond");
        assert_eq!(pond.dependencies.iter().map(|d| d.for_tests_only).collect::<Vec<_>>(), [false, true]);
        assert_eq!(pond.target("lib").map(|target| target.source.as_str()), Some("deep/pond/src/lib.rs"));
        assert_eq!(workspace.target_folder, Path::new("/t"));
    }

    #[test]
    fn metadata_without_a_field_is_refused() {
        assert!(Workspace::from_metadata(&json!({"workspace_root": "/w"})).is_none());
    }
}
