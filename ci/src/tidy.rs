//! `cargo ci tidy`: the rules of the house as tests.
//!
//! Each rule is a function from what it looks at to a list of findings. It reads no file and runs no command: the files
//! come from [`tree`], the packages from `cargo metadata`, and so every rule is tested here on a few lines of input.
//! To add a rule, write such a function in the file of its subject and call it from [`findings`].

mod crates;
mod documents;
mod layering;
mod leftovers;
mod machine;
mod source;
mod tree;
mod unsafe_addresses;

use std::fmt;
use std::process::ExitCode;

use crate::facts::Workspace;
use source::Source;
use tree::Tree;

/// Checks all rules and prints what was found.
pub(crate) fn run() -> Result<ExitCode, String> {
    let findings = check(&Workspace::read()?)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    println!("tidy: {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks all rules; one line for each finding.
///
/// # Errors
/// When the workspace cannot be read.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>, String> {
    let tree = Tree::read(&workspace.root)?;
    Ok(findings(workspace, &tree).iter().map(Finding::to_string).collect())
}

/// The members with a source file that mentions `words` in its code.
///
/// # Errors
/// When the workspace cannot be read.
pub(crate) fn packages_that_mention(workspace: &Workspace, words: &str) -> Result<Vec<String>, String> {
    let tree = Tree::read(&workspace.root)?;
    let mentions =
        |folder: &str| tree.rust_files().any(|file| file.is_in(folder) && file.text.contains(words));
    let members = workspace.packages.iter().filter(|package| package.name != THIS_PACKAGE);
    Ok(members.filter(|package| mentions(&package.folder)).map(|package| package.name.clone()).collect())
}

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// The file, relative to the workspace root.
    path: String,
    /// Counted from 1.
    line: usize,
    /// The rule, in a word or two.
    rule: &'static str,
    /// What is wrong, and what to do.
    advice: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}: {}", self.path, self.line, self.rule, self.advice)
    }
}

fn findings(workspace: &Workspace, tree: &Tree) -> Vec<Finding> {
    let mut findings = layering::check(workspace);
    findings.extend(crates::lints_not_inherited(workspace, tree));
    findings.extend(crates::front_pages_without_example(workspace, tree));
    findings.extend(documents::readme_without_commands(tree));
    findings.extend(documents::ci_script_without_test(tree));
    for file in &tree.files {
        findings.extend(machine::machine_paths(file));
        findings.extend(machine::registries(file));
    }
    let mut sources = Vec::new();
    for file in tree.rust_files() {
        findings.extend(leftovers::shape(file));
        match Source::parse(&file.text) {
            Some(source) => {
                findings.extend(leftovers::unfinished(&file.path, &source));
                sources.push((file.path.as_str(), source));
            }
            None => {
                findings.push(Finding::new(&file.path, 1, "source", "brackets do not match; mend the file"))
            }
        }
    }
    findings.extend(unsafe_addresses::check(tree.text(unsafe_addresses::LIST), &sources));
    findings
}

/// Our own package, whose sources name what others must not contain.
const THIS_PACKAGE: &str = "ci";
