//! `#[epicserver::main(entities(A, B))]`: a program's `main` as the code that runs on a node.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{ItemFn, Path, Token, parenthesized};

/// What `#[main]` makes of a function.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse2::<Arguments>(arguments)
        .and_then(|arguments| syn::parse2::<ItemFn>(item).map(|function| (arguments, function)))
        .and_then(|(arguments, function)| launched(&arguments, &function));
    expanded.unwrap_or_else(syn::Error::into_compile_error)
}

struct Arguments {
    entities: Vec<Path>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.is_empty() {
            return Ok(Self { entities: Vec::new() });
        }
        let word: syn::Ident = input.parse()?;
        if word != "entities" {
            return Err(syn::Error::new(word.span(), USAGE));
        }
        let list;
        parenthesized!(list in input);
        let entities = Punctuated::<Path, Token![,]>::parse_terminated(&list)?;
        if input.is_empty() {
            Ok(Self { entities: entities.into_iter().collect() })
        } else {
            Err(input.error(USAGE))
        }
    }
}

fn launched(arguments: &Arguments, function: &ItemFn) -> syn::Result<TokenStream> {
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(syn::Error::new_spanned(
            signature.fn_token,
            "`main` must be async: `async fn main(pool: Pool)`",
        ));
    }
    if signature.inputs.len() != 1 {
        return Err(syn::Error::new_spanned(
            &signature.ident,
            "`main` takes the pool: `async fn main(pool: Pool)`",
        ));
    }
    let (name, visibility, entities) = (&signature.ident, &function.vis, &arguments.entities);
    Ok(quote! {
        #visibility fn #name() -> ::std::process::ExitCode {
            #function
            ::epicserver::__private::launch::<(#(#entities,)*), _, _>(#name)
        }
    })
}

const USAGE: &str =
    "name the entities that this program has code for: `#[epicserver::main(entities(Player, Barrel))]`";

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_text(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).to_string()
    }

    #[test]
    fn main_is_launched_with_its_entities() {
        let text = expand_text(
            quote!(entities(Player, game::Barrel)),
            quote!(
                async fn main(pool: Pool) {}
            ),
        );
        assert!(text.contains("launch :: < (Player , game :: Barrel ,) , _ , _ > (main)"), "{text}");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            expand_text(
                quote!(objects(A)),
                quote!(
                    async fn main(pool: Pool) {}
                )
            )
            .contains("name the entities")
        );
        assert!(
            expand_text(
                quote!(),
                quote!(
                    fn main(pool: Pool) {}
                )
            )
            .contains("must be async")
        );
        assert!(
            expand_text(
                quote!(),
                quote!(
                    async fn main() {}
                )
            )
            .contains("takes the pool")
        );
    }
}
