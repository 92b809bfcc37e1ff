//! What the macro makes of blocks, as text: the wording of errors with their spans is in `tests/ui`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Item, ItemConst};

use super::expand;

/// The expansion without the spaces that tokens are printed with.
fn text(item: TokenStream) -> String {
    expand(TokenStream::new(), item).to_string().split_whitespace().collect()
}

#[track_caller]
fn check_error(item: TokenStream, part: &str) {
    let text = expand(TokenStream::new(), item).to_string();
    assert!(text.contains("compile_error") && text.contains(part), "{text}");
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn the_block_stays_and_everything_else_is_in_one_unnamed_constant() {
    let block = quote! {
        impl Player {
            async fn score(&self) -> u64 { self.0 }
        }
    };
    let file: syn::File = syn::parse2(expand(TokenStream::new(), block)).expect("it is Rust");
    let [Item::Impl(kept), Item::Const(ItemConst { ident, .. })] = file.items.as_slice() else {
        panic!("there is something else");
    };
    assert_eq!(kept.items.len(), 1);
    assert_eq!(ident, "_");
}

#[test]
fn only_async_methods_with_self_are_callable() {
    let text = text(quote! {
        impl Player {
            const A: u8 = 1;
            fn plain(&self) {}
            async fn associated() {}
            #[method(local)]
            async fn local<T>(&self, value: &T) {}
            async fn called(&mut self) {}
        }
    });
    assert_eq!(count(&text, "::epicserver::__private::Handlerfor"), 1);
    assert!(
        text.contains("table.method::<::epicserver::__private::Message<__Player_called<Player>>>();"),
        "{text}"
    );
    assert!(!text.contains("#[method("), "{text}");
}

#[test]
fn hooks_are_run_by_the_runtime_only() {
    let text = text(quote! {
        impl Player {
            async fn score(&self) -> u64 { 1 }
            #[on_activate]
            async fn started(&mut self) {}
            #[on_drop]
            async fn stopped(&mut self) {}
        }
    });
    assert_eq!(count(&text, "table.method::<"), 1);
    assert_eq!(
        count(&text, "table.on_activate::<::epicserver::__private::Message<__Player_started<Player>>>"),
        1
    );
    assert_eq!(
        count(&text, "table.on_drop::<::epicserver::__private::Message<__Player_stopped<Player>>>"),
        1
    );
    assert_eq!(count(&text, "::epicserver::__private::Call<"), 1);
}

#[test]
fn conditions_and_documentation_follow_a_method() {
    let text = text(quote! {
        impl Player {
            /// Says hello.
            #[cfg(feature = "hello")]
            pub(crate) async fn hello(&self) {}
        }
    });
    assert_eq!(count(&text, "Sayshello."), 2);
    // The method itself, its handler, its result, its implementation, its call, its entry, its number.
    assert_eq!(count(&text, r#"#[cfg(feature="hello")]"#), 7);
    assert_eq!(count(&text, "pub(crate)"), 3);
}

#[test]
fn self_means_the_entity_everywhere() {
    let text = text(quote! {
        impl game::Player {
            async fn meet(&self, other: Vec<Ref<Self>>) -> Option<Self::Gift> { None }
        }
    });
    assert!(text.contains("fnmeet(&self,other:Vec<Ref<game::Player>>)"), "{text}");
    assert!(text.contains("typeValue=Option<game::Player::Gift>;"), "{text}");
    assert!(text.contains("implgame::PlayerRef{"), "{text}");
}

#[test]
fn arguments_read_in_place_are_lent() {
    let text = text(quote! {
        impl Player {
            async fn show(&self, first: &rkyv::Archived<Profile>, second: u8) {}
        }
    });
    assert!(text.contains("fnshow(&self,first:Profile,second:u8)"), "{text}");
    assert!(
        text.contains(
            "(::epicserver::__private::Lent::owned(first),::epicserver::__private::Moved(second),)"
        ),
        "{text}"
    );
}

#[test]
fn every_mistake_of_a_block_is_told() {
    let text = text(quote! {
        impl Player {
            async fn by_value(self) {}
            async fn generic<T>(&self, value: T) {}
            async fn borrowed(&self, value: Option<&str>) {}
            async fn fine(&self) {}
        }
    });
    assert_eq!(count(&text, "compile_error!"), 3);
    assert!(text.contains("<__Player_fine<Player>>>();"), "what is right is made: {text}");
}

#[test]
fn mistakes_have_their_words() {
    let method = |function: TokenStream| quote!(impl Player { async fn fine(&self) {} #function });
    for (function, part) in [
        (
            quote!(
                async fn f(self: Arc<Self>) {}
            ),
            "cannot be moved into a call",
        ),
        (
            quote!(
                async fn f(&self, a: impl Clone) {}
            ),
            "name the type of the argument",
        ),
        (
            quote!(
                async fn f(&self, a: &mut Archived<u8>) {}
            ),
            "arguments are moved",
        ),
        (
            quote!(
                async fn f(&self) -> &str {}
            ),
            "results are moved",
        ),
        (
            quote!(
                async fn f(&self) -> impl Clone {}
            ),
            "name the type of the result",
        ),
        (
            quote!(
                async fn f(&self)
                where
                    u8: Copy,
                {
                }
            ),
            "cannot be generic",
        ),
        (
            quote!(
                async unsafe fn f(&self) {}
            ),
            "cannot be `unsafe`",
        ),
        (
            quote!(
                async fn clone(&self) {}
            ),
            "choose another name",
        ),
        (
            quote!(
                #[method(serial)]
                async fn f(&mut self) {}
            ),
            "never interleaves",
        ),
        (
            quote!(
                #[method(other)]
                async fn f(&self) {}
            ),
            "knows `serial`",
        ),
        (
            quote!(
                #[method(shield)]
                fn f(&self) {}
            ),
            "belongs to an `async fn`",
        ),
        (
            quote!(
                #[on_drop]
                fn f(&mut self) {}
            ),
            "belongs to an `async fn`",
        ),
        (
            quote!(
                #[on_drop]
                async fn f(&self) {}
            ),
            "no arguments, no result",
        ),
        (
            quote!(
                #[on_drop]
                async fn f(&mut self) -> u8 {}
            ),
            "no arguments, no result",
        ),
        (
            quote!(
                #[on_drop]
                #[on_activate]
                async fn f(&mut self) {}
            ),
            "a hook is nothing else",
        ),
        (
            quote!(
                #[on_drop]
                async fn f(&mut self) {}
                #[on_drop]
                async fn g(&mut self) {}
            ),
            "an entity has one `#[on_drop]` hook",
        ),
    ] {
        check_error(method(function), part);
    }
}

#[test]
fn blocks_that_are_none_are_refused() {
    check_error(
        quote!(
            struct Player;
        ),
        "goes on an `impl Type { .. }` block",
    );
    check_error(quote!(impl Clone for Player {}), "methods of a trait");
    check_error(
        quote!(
            impl<T> Player<T> {}
        ),
        "cannot be generic",
    );
    check_error(quote!(impl Player<u8> { async fn a(&self) {} }), "goes on an `impl Type { .. }` block");
    check_error(quote!(impl Player { fn plain(&self) {} }), "no method here can be called");
}
