use crate::support::Space;

#[tokio::test]
async fn all_routes_are_listed_by_name_whoever_registered_them() {
    let space = Space::new().await;
    let other = space.another().await;
    assert!(space.broker.queues().await.unwrap().is_empty());
    other.register_queue("b", "^b").await.unwrap();
    space.broker.register_queue("a", "^a").await.unwrap();
    other.register_queue("c", "^c").await.unwrap();
    other.unregister_queue("c").await.unwrap();
    let routes = space.broker.queues().await.unwrap();
    let routes: Vec<_> =
        routes.iter().map(|route| (route.queue.as_str(), route.pattern.as_str())).collect();
    assert_eq!(routes, [("a", "^a"), ("b", "^b")]);
    space.end().await;
}

#[tokio::test]
async fn a_namespace_does_not_see_the_queues_of_another() {
    let (one, two) = (Space::new().await, Space::new().await);
    one.broker.register_queue("q", ".").await.unwrap();
    assert!(two.broker.queues().await.unwrap().is_empty());
    one.end().await;
    two.end().await;
}
