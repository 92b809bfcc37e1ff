//! A check for tests: that a program still reads what it and its former versions have saved.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use rkyv::util::AlignedVec;

use crate::activation::EntityVtable;
use crate::entity::{BoundEntity, Entities};
use crate::saving::SavePolicy;

/// Holds entities to what they have saved, by sample files that lie in the repository beside the test.
///
/// The first run writes a sample for the current version of each entity, `<entity>.v<version>`, and fails, so that it is looked at and
/// added to the repository. From then on the check fails when a layout changed and the version did not, when a sample of an earlier
/// version is there and no migration for it, and when a sample cannot be read any more.
///
/// ```no_run
/// # use epicserver_runtime::script::check_saved_states;
/// # type Game = ();
/// #[test]
/// fn what_was_saved_is_still_read() {
///     check_saved_states::<Game>(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/saved"));
/// }
/// ```
///
/// # Panics
/// If something is not as it should be: with all of it, a line each, and what to do.
#[track_caller]
pub fn check_saved_states<B: Entities>(folder: impl AsRef<Path>) {
    let mut entities = Vec::new();
    B::collect(&mut entities);
    let folder = folder.as_ref();
    let problems = entities.iter().filter(|bound| bound.vtable.save != SavePolicy::Never);
    let problems: Vec<String> = problems.flat_map(|bound| check(bound, folder)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// What is wrong with one entity.
fn check(bound: &BoundEntity, folder: &Path) -> Vec<String> {
    let vtable = bound.vtable;
    (1..=vtable.version).filter_map(|version| check_version(vtable, version, folder).err()).collect()
}

fn check_version(vtable: &EntityVtable, version: u32, folder: &Path) -> Result<(), String> {
    let name = vtable.name;
    let path = folder.join(format!("{name}.v{version}"));
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && version == vtable.version => {
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&path, sample(vtable)?))
                .map_err(|error| format!("{shown} cannot be written: {error}"))?;
            return Err(format!("{shown} is new: it holds a state of version {version} of {name}; keep it"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    let (layout, bytes) =
        parse(&text).ok_or_else(|| format!("{shown} is damaged: take it from the repository"))?;
    let earlier = vtable.earlier.iter().position(|form| form.version == version);
    let known = match earlier {
        Some(place) => vtable.earlier[place].layout,
        None if version == vtable.version => vtable.layout,
        None => {
            return Err(format!(
                "{name} has saved states of version {version}, and nothing reads them: name a migration, \
                 `#[entity(.., migrations({version} => ..))]`"
            ));
        }
    };
    if layout != known {
        let next = vtable.version + 1;
        return Err(match earlier {
            Some(_) => format!(
                "the fields of the state that stands for version {version} of {name} are not those of {shown}"
            ),
            None => format!(
                "the layout of {name} changed: write `#[entity(.., version = {next}, migrations({version} => ..))]`, \
                 and keep the old fields in a `#[message]` struct"
            ),
        });
    }
    match (vtable.read_again)(earlier, &bytes) {
        Ok(Some(again)) if *again != *bytes => {
            Err(format!("the state in {shown} is archived in another way now"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the state in {shown} cannot be read any more: {error}")),
    }
}

fn sample(vtable: &EntityVtable) -> std::io::Result<String> {
    let bytes = (vtable.sample)().map_err(std::io::Error::other)?;
    let mut text = format!("layout {:016x}\n", vtable.layout);
    for line in bytes.chunks(LINE_LEN) {
        line.iter().try_for_each(|byte| write!(text, "{byte:02x}")).map_err(std::io::Error::other)?;
        text.push('\n');
    }
    Ok(text)
}

fn parse(text: &str) -> Option<(u64, AlignedVec)> {
    let mut lines = text.lines();
    let layout = u64::from_str_radix(lines.next()?.strip_prefix("layout ")?, 16).ok()?;
    let mut bytes = AlignedVec::new();
    for line in lines {
        for pair in line.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?);
        }
    }
    Some((layout, bytes))
}

/// Bytes in a line of a sample.
const LINE_LEN: usize = 32;
