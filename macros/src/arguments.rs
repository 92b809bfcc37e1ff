//! The arguments of `#[entity(..)]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Ident, LitInt, LitStr, Path, Result, Token, Type, parenthesized};

/// What `#[entity(..)]` says; what it does not say has its default.
pub(crate) struct EntityArguments {
    pub(crate) name: Option<LitStr>,
    pub(crate) key: Option<Type>,
    pub(crate) save: Save,
    pub(crate) version: u32,
    pub(crate) partition_by: Option<Path>,
    /// How long an object may lie unused, in milliseconds.
    pub(crate) idle_ms: Option<u64>,
    /// Oldest first, without a gap up to `version`.
    pub(crate) migrations: Vec<Migration>,
    /// Where samples of saved states lie, from the package's folder.
    pub(crate) samples: Option<LitStr>,
}

/// What reads the state of an earlier version: `1 => PlayerV1`, or, where states can be saved in it as well, `1 <=> PlayerV1`.
pub(crate) struct Migration {
    pub(crate) version: u32,
    pub(crate) state: Type,
    pub(crate) goes_back: bool,
    at: Span,
}

/// What a crash may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Save {
    Durable,
    BehindMs(u64),
    OnIdle,
    Never,
}

impl EntityArguments {
    /// Reads the arguments of the entity `ident`.
    pub(crate) fn parse(tokens: TokenStream, ident: &Ident) -> (Self, Result<()>) {
        let mut arguments = Self {
            name: None,
            key: None,
            save: Save::Durable,
            version: 1,
            partition_by: None,
            idle_ms: None,
            migrations: Vec::new(),
            samples: None,
        };
        let mut seen = Vec::new();
        let parsed = syn::meta::parser(|meta| arguments.take(&meta, &mut seen)).parse2(tokens);
        let checked = parsed.and_then(|()| match &arguments.name {
            Some(name) => check_name(name),
            None => Err(missing_name(ident)),
        });
        let checked = checked.and_then(|()| check_migrations(&arguments.migrations, arguments.version));
        let checked = checked.and_then(|()| check_samples(&arguments));
        if checked.is_err() {
            arguments.migrations.clear();
        }
        (arguments, checked)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>, seen: &mut Vec<String>) -> Result<()> {
        let argument = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        if seen.contains(&argument) {
            return Err(meta.error(format!("`{argument}` is given twice")));
        }
        match argument.as_str() {
            "name" => self.name = Some(meta.value()?.parse()?),
            "key" => self.key = Some(parse_key(meta.value()?.parse()?)?),
            "save" => self.save = parse_save(meta)?,
            "version" => self.version = parse_version(&meta.value()?.parse()?)?,
            "partition_by" => self.partition_by = Some(meta.value()?.parse()?),
            "idle" => self.idle_ms = Some(parse_idle(&meta.value()?.parse()?)?),
            "migrations" => self.migrations = parse_migrations(meta)?,
            "samples" => self.samples = Some(meta.value()?.parse()?),
            _ => return Err(meta.error(UNKNOWN)),
        }
        seen.push(argument);
        Ok(())
    }
}

const UNKNOWN: &str = "`#[entity]` knows `name = \"..\"`, `key = Type`, \
     `save = durable | behind(\"50ms\") | on_idle | never`, `version = number`, \
     `migrations(1 => StateV1, 2 <=> StateV2)`, `samples = \"tests/saved\"`, `partition_by = function` and `idle = \"5m\"`";

fn missing_name(ident: &Ident) -> syn::Error {
    let text = format!(
        "an entity needs a name that is unique in the cluster and never changes: \
         write `#[entity(name = \"game.{ident}\")]`"
    );
    syn::Error::new(Span::call_site(), text)
}

fn check_name(name: &LitStr) -> Result<()> {
    let text = name.value();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > NAME_LEN_MAX || !text.chars().all(legal) {
        let wanted =
            "an entity's name is 1 to 128 ASCII letters, digits, `.`, `_` or `-`, such as \"game.Player\"";
        return Err(syn::Error::new(name.span(), wanted));
    }
    Ok(())
}

/// Refuses what is certainly no key. A name of the user's own may be an alias of one; that is left to the compiler.
fn parse_key(key: Type) -> Result<Type> {
    let named = match &key {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let is_key = named.is_some_and(|last| match last.ident.to_string().as_str() {
        "u64" | "u128" | "String" => last.arguments.is_none(),
        "Vec" => {
            let arguments = &last.arguments;
            quote!(#arguments).to_string() == "< u8 >"
        }
        name => name.starts_with(|first: char| first.is_ascii_uppercase()) && last.arguments.is_none(),
    });
    if is_key { Ok(key) } else { Err(syn::Error::new(key.span(), KEYS)) }
}

const KEYS: &str = "the key of an entity is `u64` (the default), `u128`, `String` or `Vec<u8>`";

fn parse_version(version: &LitInt) -> Result<u32> {
    let number = version.base10_parse()?;
    if number == 0 || number > VERSION_MAX {
        return Err(syn::Error::new(version.span(), "versions start at 1, and end at 65535"));
    }
    Ok(number)
}

fn parse_migrations(meta: &ParseNestedMeta<'_>) -> Result<Vec<Migration>> {
    let list;
    parenthesized!(list in meta.input);
    let migrations = Punctuated::<Migration, Token![,]>::parse_terminated(&list)?;
    Ok(migrations.into_iter().collect())
}

impl Parse for Migration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let number: LitInt = input.parse()?;
        let version = parse_version(&number)?;
        let goes_back = input.peek(Token![<=]);
        if goes_back {
            input.parse::<Token![<=]>()?;
            input.parse::<Token![>]>()?;
        } else {
            input.parse::<Token![=>]>()?;
        }
        Ok(Self { version, state: input.parse()?, goes_back, at: number.span() })
    }
}

/// Each leads to the next, and the last one to the current version.
fn check_migrations(migrations: &[Migration], version: u32) -> Result<()> {
    for (place, migration) in migrations.iter().enumerate() {
        let left = (migrations.len() - place) as u32;
        if migration.version.checked_add(left) != Some(version) {
            let text = format!(
                "migrations are named oldest first, without a gap up to the version before `version = {version}`"
            );
            return Err(syn::Error::new(migration.at, text));
        }
        let next = migrations.get(place + 1);
        if migration.goes_back && next.is_some_and(|next| !next.goes_back) {
            let text = "the way back to a version leads over all later ones: `<=>` for this one needs `<=>` for those";
            return Err(syn::Error::new(migration.at, text));
        }
    }
    Ok(())
}

/// What is never saved has no samples.
fn check_samples(arguments: &EntityArguments) -> Result<()> {
    match &arguments.samples {
        Some(folder) if arguments.save == Save::Never => Err(syn::Error::new(
            folder.span(),
            "an entity with `save = never` has no saved states to take samples of",
        )),
        Some(folder) if folder.value().is_empty() => Err(syn::Error::new(
            folder.span(),
            "samples lie in a folder of the package, such as \"tests/saved\"",
        )),
        _ => Ok(()),
    }
}

fn parse_save(meta: &ParseNestedMeta<'_>) -> Result<Save> {
    let value = meta.value()?;
    let policy: Ident = value.parse()?;
    let save = match policy.to_string().as_str() {
        "durable" => Save::Durable,
        "on_idle" => Save::OnIdle,
        "never" => Save::Never,
        "behind" => {
            let text;
            parenthesized!(text in value);
            parse_behind(&text.parse()?)?
        }
        _ => {
            let wanted = "a save policy is `durable`, `behind(\"50ms\")`, `on_idle` or `never`";
            return Err(syn::Error::new(policy.span(), wanted));
        }
    };
    if !value.is_empty() && !value.peek(Token![,]) {
        return Err(value.error("expected `,`"));
    }
    Ok(save)
}

fn parse_behind(text: &LitStr) -> Result<Save> {
    match parse_ms(&text.value(), &[("ms", 1), ("s", 1000)]) {
        Some(ms) => Ok(Save::BehindMs(ms)),
        None => {
            Err(syn::Error::new(text.span(), "a time is a whole number of `ms` or `s`, such as \"50ms\""))
        }
    }
}

fn parse_idle(text: &LitStr) -> Result<u64> {
    let units = [("s", 1000), ("m", 60 * 1000), ("h", 60 * 60 * 1000)];
    let wanted =
        "an idle time is a whole number of `s`, `m` or `h`, from \"1s\" to \"8760h\", such as \"5m\"";
    let ms = parse_ms(&text.value(), &units).filter(|ms| *ms <= IDLE_MS_MAX);
    ms.ok_or_else(|| syn::Error::new(text.span(), wanted))
}

/// A whole number above zero with its unit.
fn parse_ms(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let (_, unit_ms) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok().filter(|number| *number > 0)?.checked_mul(*unit_ms)
}

const NAME_LEN_MAX: usize = 128;
/// What a saved record can name.
const VERSION_MAX: u32 = 65_535;
/// A year.
const IDLE_MS_MAX: u64 = 8760 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use quote::format_ident;

    fn parse(tokens: TokenStream) -> std::result::Result<EntityArguments, String> {
        let (arguments, checked) = EntityArguments::parse(tokens, &format_ident!("Player"));
        checked.map(|()| arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn all_arguments_are_read() {
        let all = quote!(
            name = "game.Player",
            key = String,
            save = behind("2s"),
            version = 3,
            partition_by = a::b,
            samples = "tests/saved",
            idle = "5m"
        );
        let Ok(arguments) = parse(all) else { panic!("all of it is legal") };
        assert_eq!((arguments.save, arguments.version), (Save::BehindMs(2000), 3));
        assert_eq!(arguments.idle_ms, Some(300_000));
        assert!(arguments.key.is_some() && arguments.partition_by.is_some());
        assert_eq!(arguments.samples.map(|folder| folder.value()), Some("tests/saved".to_owned()));
    }

    #[test]
    fn migrations_lead_to_the_current_version() {
        let Ok(arguments) = parse(quote!(name = "a", migrations(2 => a::V2, 3 <=> V3,), version = 4)) else {
            panic!("all of it is legal")
        };
        let read: Vec<_> = arguments.migrations.iter().map(|one| (one.version, one.goes_back)).collect();
        assert_eq!(read, [(2, false), (3, true)]);
    }

    #[test]
    fn each_policy_has_its_spelling() {
        for (tokens, save) in [
            (quote!(durable), Save::Durable),
            (quote!(behind("50ms")), Save::BehindMs(50)),
            (quote!(on_idle), Save::OnIdle),
            (quote!(never), Save::Never),
        ] {
            assert_eq!(parse(quote!(save = #tokens, name = "a")).map(|arguments| arguments.save), Ok(save));
        }
    }

    #[test]
    fn keys_may_have_other_names() {
        for key in [quote!(u64), quote!(std::string::String), quote!(Vec<u8>), quote!(my::PlayerName)] {
            assert!(parse(quote!(name = "a", key = #key)).is_ok(), "{key}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (tokens, part) in [
            (quote!(), "#[entity(name = \"game.Player\")]"),
            (quote!(name = ""), "1 to 128"),
            (quote!(name = "a b"), "1 to 128"),
            (quote!(name = "a", name = "b"), "given twice"),
            (quote!(name = "a", keys = u64), "`#[entity]` knows"),
            (quote!(name = "a", save = often), "a save policy is"),
            (quote!(name = "a", save = behind("0ms")), "a time is"),
            (quote!(name = "a", save = behind("50")), "a time is"),
            (quote!(name = "a", save = behind("99999999999999999999s")), "a time is"),
            (quote!(name = "a", save = behind("18446744073709551615s")), "a time is"),
            (quote!(name = "a", save = never never), "expected `,`"),
            (quote!(name = "a", idle = "0s"), "an idle time is"),
            (quote!(name = "a", idle = "5"), "an idle time is"),
            (quote!(name = "a", idle = "50ms"), "an idle time is"),
            (quote!(name = "a", idle = "1.5h"), "an idle time is"),
            (quote!(name = "a", idle = "8761h"), "an idle time is"),
            (quote!(name = "a", idle = "18446744073709551615h"), "an idle time is"),
            (quote!(name = "a", idle = "5m", idle = "5m"), "given twice"),
            (quote!(name = "a", key = f64), "the key of an entity"),
            (quote!(name = "a", key = &str), "the key of an entity"),
            (quote!(name = "a", key = Vec<u16>), "the key of an entity"),
            (quote!(name = "a", key = Option<u64>), "the key of an entity"),
            (quote!(name = "a", version = 0), "start at 1"),
            (quote!(name = "a", version = 65536), "end at 65535"),
            (quote!(name = "a", version = 2, migrations(0 => A)), "start at 1"),
            (quote!(name = "a", version = 3, migrations(1 => A)), "without a gap"),
            (quote!(name = "a", version = 3, migrations(2 => A, 1 => B)), "without a gap"),
            (quote!(name = "a", migrations(1 => A)), "without a gap"),
            (quote!(name = "a", version = 3, migrations(1 <=> A, 2 => B)), "the way back"),
            (quote!(name = "a", version = 2, migrations(1 = A)), "expected `=>`"),
            (quote!(name = "a", version = 2, migrations = A), "expected parentheses"),
            (quote!(name = "a", samples = tests), "expected string literal"),
            (quote!(name = "a", samples = ""), "samples lie in"),
            (quote!(name = "a", samples = "saved", save = never), "no saved states"),
        ] {
            let shown = tokens.to_string();
            let Err(error) = parse(tokens) else { panic!("accepted: {shown}") };
            assert!(error.contains(part), "{shown}: {error}");
        }
    }
}
