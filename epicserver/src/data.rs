//! `epicserver verify` and `epicserver backup`: the data on the disk, while nodes run and while none does.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use epicserver::settings::{Flags, STORE_FILE, Settings};
use epicserver_data_dir::DataDirectory;
use epicserver_storage_sqlite::{Copied, Damage, OpenError, Verified};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

/// What is to be verified.
#[derive(Args, Debug)]
pub(crate) struct VerifyOptions {
    /// A data directory, or a backup
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print JSON, one object a line: each damage, then what was looked at
    #[arg(long)]
    json: bool,
}

/// What is copied, and to where.
#[derive(Args, Debug)]
pub(crate) struct BackupOptions {
    #[command(flatten)]
    flags: Flags,
    /// The directory of the backup: a new one, or one that is empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn verify(options: &VerifyOptions) -> ExitCode {
    match look_for_damage(options) {
        Ok(verified) => {
            say_what_was_looked_at(&verified, options.json);
            if verified.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&*error),
    }
}

pub(crate) fn backup(options: &BackupOptions) -> ExitCode {
    match back_up(options) {
        Ok((from, copied)) => {
            say_what_was_copied(&from, &options.directory, copied, options.json);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&*error),
    }
}

fn look_for_damage(options: &VerifyOptions) -> Result<Verified, Failure> {
    let store = store_of(&DataDirectory::look_at(&options.directory)?)?;
    eprintln!("looking at {}: first at the file itself, then at each record", store.display());
    let mut tell = |damage: Damage| say_damage(&damage, options.json);
    let mut progress = |records| eprintln!("{records} records");
    when_it_rests(|| epicserver_storage_sqlite::verify(&store, &mut tell, &mut progress))
}

fn say_damage(damage: &Damage, json: bool) {
    if json {
        let (entity, key) = damage.record.clone().unzip();
        let entity = entity.map(|entity| format!("{entity:016x}"));
        println!("{}", json!({"entity": entity, "key": key, "reason": damage.reason}));
    } else {
        println!("damaged: {damage}");
    }
}

fn say_what_was_looked_at(verified: &Verified, json: bool) {
    let Verified { store, records, forgotten, bytes, damaged } = verified;
    if json {
        let summary = json!({
            "store": store.to_string(),
            "records": records,
            "forgotten": forgotten,
            "bytes": bytes,
            "damaged": damaged,
        });
        return println!("{summary}");
    }
    let found = match damaged {
        0 => "no damage was found".to_owned(),
        1 => "1 damage was found".to_owned(),
        more => format!("{more} damages were found"),
    };
    println!("{found} in {records} records and {forgotten} of forgotten objects, {bytes} bytes");
}

fn back_up(options: &BackupOptions) -> Result<(DataDirectory, Copied), Failure> {
    let settings = Settings::load(&options.flags, std::env::vars())?;
    let from = settings.data_folder().ok_or(NO_FOLDER)?;
    let directory = DataDirectory::look_at(&from)?;
    let store = store_of(&directory)?;
    check_free(&options.directory)?;
    let unfinished = Unfinished::beside(&options.directory);
    let said = |error: io::Error| format!("{}: {error}", unfinished.path.display());
    directory.make_copy(&unfinished.path).map_err(said)?;
    let mut megabytes_told = 0;
    let mut progress = |bytes: u64| {
        let megabytes = bytes >> 20;
        if megabytes >= megabytes_told + PROGRESS_MEGABYTES {
            megabytes_told = megabytes;
            eprintln!("{megabytes} MiB copied");
        }
    };
    let copy = unfinished.path.join(STORE_FILE);
    let copied = when_it_rests(|| epicserver_storage_sqlite::copy(&store, &copy, &mut progress))?;
    unfinished
        .finish(&options.directory)
        .map_err(|error| format!("{}: {error}", options.directory.display()))?;
    Ok((directory, copied))
}

fn say_what_was_copied(from: &DataDirectory, to: &Path, copied: Copied, json: bool) {
    let Copied { records, bytes } = copied;
    if json {
        let summary = json!({
            "backup": to.display().to_string(),
            "of": from.path().display().to_string(),
            "cluster": format!("{:032x}", from.identity().cluster),
            "records": records,
            "bytes": bytes,
        });
        return println!("{summary}");
    }
    println!(
        "{} has {records} records, {bytes} bytes; `epicserver verify` looks at each of them",
        to.display()
    );
}

/// The file with the states.
fn store_of(directory: &DataDirectory) -> Result<PathBuf, Failure> {
    let store = directory.path().join(STORE_FILE);
    if !store.exists() {
        let path = directory.path().display();
        return Err(
            format!("the data directory {path} has no data: there is no file {STORE_FILE} in it").into()
        );
    }
    Ok(store)
}

fn check_free(directory: &Path) -> Result<(), Failure> {
    let refused = |why: &str| Err(format!("{} {why}; name a new directory", directory.display()).into());
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => refused("is not empty"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => refused("is no directory"),
        Err(error) => Err(format!("{}: {error}", directory.display()).into()),
    }
}

/// A backup that is being made, under another name; it is removed unless it gets its own.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn beside(directory: &Path) -> Self {
        // Without a slash at its end, which would lead into it.
        let mut name = directory.components().collect::<PathBuf>().into_os_string();
        name.push(format!(".partial-{}", std::process::id()));
        Self { path: name.into() }
    }

    /// Gives it its name, durably.
    fn finish(&self, directory: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, directory)?;
        let absolute = std::path::absolute(directory)?;
        File::open(absolute.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the renaming there is nothing.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Tries until the keeper does not empty its log at this very moment, which takes it a part of a second.
fn when_it_rests<T>(mut work: impl FnMut() -> Result<T, OpenError>) -> Result<T, Failure> {
    for _ in 0..ATTEMPTS_MAX {
        match work() {
            Err(OpenError::Busy { .. }) => wait_a_moment(),
            other => return Ok(other?),
        }
    }
    Err("the node that keeps the data is in the middle of emptying its log and does not end; try again later"
        .into())
}

#[expect(clippy::disallowed_methods, reason = "a command that waits for another process")]
fn wait_a_moment() {
    std::thread::sleep(MOMENT);
}

fn fail(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

const NO_FOLDER: &str = "a backup is made of a data directory, on its machine: name it with --data-dir";
const PROGRESS_MEGABYTES: u64 = 256;
const MOMENT: Duration = Duration::from_millis(10);
/// For 20 s.
const ATTEMPTS_MAX: usize = 2_000;
