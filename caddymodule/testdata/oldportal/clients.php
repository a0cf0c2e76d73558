<?php
// What all pages of the portal share. It is as old portals are: whoever holds a link is
// in, pages lead to one another by links with the token, and nothing here knows of a gate.

$clients = [
    'acme-secret-token-1' => 'Acme Ltd',
    'acme-secret-token-2' => 'Acme Ltd',
    'birch-secret-token' => 'Birch & Sons',
];

ini_set('session.cookie_httponly', '1');
session_start();

function enter(string $token): void
{
    global $clients;
    if (($_SESSION['token'] ?? '') !== $token) {
        session_regenerate_id(true);
        $_SESSION = ['token' => $token, 'client' => $clients[$token], 'notes' => []];
    }
}

function page(string $title, string $body): void
{
    header('Content-Type: text/html; charset=utf-8');
    $at = htmlspecialchars($_SERVER['REQUEST_URI']);
    echo "<!doctype html>\n<html lang=\"en\">\n<title>$title</title>\n<link rel=\"stylesheet\" href=\"/assets/portal.css\">\n";
    echo "<h1>$title</h1>\n$body<p id=\"at\">$at</p>\n</html>\n";
}
