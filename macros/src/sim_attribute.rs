//! `#[epicserver_sim::sim(entities(A, B), nodes = 3..7, seeds = 200)]`: an async function as a test in simulated worlds.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, ItemFn, Path, Token, parenthesized};

/// What `#[sim]` makes of a function.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse2::<Arguments>(arguments)
        .and_then(|arguments| syn::parse2::<ItemFn>(item).map(|function| (arguments, function)))
        .and_then(|(arguments, function)| checked(&arguments, &function));
    expanded.unwrap_or_else(syn::Error::into_compile_error)
}

#[derive(Default)]
struct Arguments {
    entities: Vec<Path>,
    nodes: Option<Expr>,
    seeds: Option<Expr>,
    is_calm: bool,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut arguments = Self::default();
        while !input.is_empty() {
            let word: Ident = input.parse()?;
            match word.to_string().as_str() {
                "entities" => {
                    let list;
                    parenthesized!(list in input);
                    let entities = Punctuated::<Path, Token![,]>::parse_terminated(&list)?;
                    arguments.entities = entities.into_iter().collect();
                }
                "nodes" => arguments.nodes = Some(value(input)?),
                "seeds" => arguments.seeds = Some(value(input)?),
                "calm" => arguments.is_calm = true,
                _ => return Err(syn::Error::new(word.span(), USAGE)),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        match arguments.entities.is_empty() {
            true => Err(input.error(USAGE)),
            false => Ok(arguments),
        }
    }
}

fn value(input: ParseStream<'_>) -> syn::Result<Expr> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn checked(arguments: &Arguments, function: &ItemFn) -> syn::Result<TokenStream> {
    let signature = &function.sig;
    if signature.asyncness.is_none() || signature.inputs.len() != 1 {
        let name = &signature.ident;
        let advice = format!("it must be async and take its world: `async fn {name}(world: World)`");
        return Err(syn::Error::new_spanned(signature, advice));
    }
    let (name, visibility, entities) = (&signature.ident, &function.vis, &arguments.entities);
    let nodes = arguments.nodes.iter();
    let seeds = arguments.seeds.iter();
    let calm = arguments.is_calm.then(|| quote!(.calm()));
    let (attributes, mut inner) = (&function.attrs, function.clone());
    inner.attrs.clear();
    inner.vis = syn::Visibility::Inherited;
    Ok(quote! {
        #[test]
        #(#attributes)*
        #visibility fn #name() {
            #inner
            ::epicserver_sim::check::<(#(#entities,)*)>()#(.nodes(#nodes))*#(.seeds(#seeds))*#calm
                .named(stringify!(#name))
                .run(#name)
        }
    })
}

const USAGE: &str = "say what the nodes bind, and how many nodes and worlds there are: \
                     `#[epicserver_sim::sim(entities(Account), nodes = 3..7, seeds = 200)]`, with `calm` if nothing is to go wrong";

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_text(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).to_string()
    }

    fn function() -> TokenStream {
        quote!(
            async fn money(world: World) {}
        )
    }

    #[test]
    fn a_function_becomes_a_test() {
        let text =
            expand_text(quote!(entities(Account, bank::Rules), nodes = 3..7, seeds = 200, calm), function());
        assert!(text.starts_with("# [test] fn money ()"), "{text}");
        let check = "check :: < (Account , bank :: Rules ,) > () . nodes (3 .. 7) . seeds (200) . calm ()";
        assert!(text.contains(check), "{text}");
    }

    #[test]
    fn what_is_not_said_is_as_the_check_has_it() {
        let text = expand_text(quote!(entities(Account)), function());
        assert!(
            text.contains("check :: < (Account ,) > () . named (stringify ! (money)) . run (money)"),
            "{text}"
        );
    }

    #[test]
    fn mistakes_are_named() {
        assert!(expand_text(quote!(), function()).contains("say what the nodes bind"));
        assert!(expand_text(quote!(entities(A), cores = 3), function()).contains("say what the nodes bind"));
        let no_world = quote!(
            async fn money() {}
        );
        assert!(expand_text(quote!(entities(A)), no_world).contains("async fn money(world: World)"));
    }
}
