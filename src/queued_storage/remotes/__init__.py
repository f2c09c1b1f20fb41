"""What is known of particular remotes by their class: connections, URL lifetimes, opening."""
